"""Reads models/model.json of a torch.export archive: what a program takes, and which layers own its parameters.

Nothing in it is evaluated. A layer's type is the class of the module that holds its parameters, as `nn_module_stack`
("key,path,class;key,path,class") names it at a node that uses one of them.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from app.errors import Invalid
from app.intake.dtypes import BY_EXPORT_NUMBER
from app.intake.facts import Extent, Layer, Program, Tensor
from app.intake.foreign import EXPORT
from quantization.names import layer_name

MAX_NODES = 50_000
SCHEMA_MAJOR = 8

_WHERE = "models/model.json"
_INPUT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,255}")
_PARAMETER_NAME = re.compile(r"[ !#-;=?-\[\]-~]{1,512}")
_CLASS_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_SYMBOL = re.compile(r"Symbol\('(\w{1,64})'[^()]*\)|(\w{1,64})")
_WEIGHTED = ("Linear", "Embedding")
"""Classes whose weight may be tied to another's."""
_REPEATED_CALL = re.compile(r"@\d+$")

T = TypeVar("T")


@dataclass(frozen=True)
class Graph:
    """The facts about a program, and the parameters that it needs weights for."""

    facts: Program
    parameter_names: tuple[str, ...]


def read_graph(document: Any) -> Graph:
    """Read the parsed model.json. Raises Invalid."""
    version = take(take(document, "schema_version", dict, _WHERE), "major", int, f"{_WHERE}: schema_version")
    if version != SCHEMA_MAJOR:
        raise refused(f"{_WHERE}: schema version {version}; version {SCHEMA_MAJOR} (torch 2.13) is read.")
    module = take(document, "graph_module", dict, _WHERE)
    graph = take(module, "graph", dict, _WHERE)
    values = take(graph, "tensor_values", dict, f"{_WHERE}: graph")
    ranges = take(document, "range_constraints", dict, _WHERE)
    inputs, parameters = _input_specs(module)
    shapes = {name: _static_shape(value, values, ranges) for value, name in parameters.items()}
    used, types, borrowers = _used(take(graph, "nodes", list, f"{_WHERE}: graph"), parameters)
    layers = _layers({name: shape for name, shape in shapes.items() if name in used}, types)
    own = {layer.name for layer in layers}
    layers += tuple(Layer(path, kind, shapes[name], 0) for path, (kind, name) in borrowers.items() if path not in own)
    facts = Program(
        inputs=tuple(_tensor(name, values, ranges) for name in inputs),
        layers=layers,
        parameters=sum(math.prod(shape) for shape in shapes.values()),
    )
    return Graph(facts, tuple(shapes))


def refused(detail: str) -> Invalid:
    """Return the refusal of a program."""
    return Invalid("program_invalid", detail, EXPORT)


def take(value: Any, key: str, kind: type[T], where: str) -> T:
    """Return value[key] of exactly this type. Raises Invalid."""
    found = value.get(key) if isinstance(value, dict) else None
    if type(found) is not kind:
        raise refused(f"{where}: {key} is missing or not what torch 2.13 writes.")
    return found


def _input_specs(module: dict[str, Any]) -> tuple[list[str], dict[str, str]]:
    """Return the names of user inputs, and of parameters by the value that stands for them."""
    where = f"{_WHERE}: signature"
    inputs: list[str] = []
    parameters: dict[str, str] = {}
    for spec in take(take(module, "signature", dict, _WHERE), "input_specs", list, where):
        if isinstance(spec, dict) and "user_input" in spec:
            inputs.append(_input_name(take(spec, "user_input", dict, where)))
        elif isinstance(spec, dict) and "parameter" in spec:
            parameter = take(spec, "parameter", dict, where)
            name = take(parameter, "parameter_name", str, where)
            if not _PARAMETER_NAME.fullmatch(name):
                raise refused(f"{where}: a parameter's name has characters that are not taken.")
            parameters[take(take(parameter, "arg", dict, where), "name", str, where)] = name
        elif isinstance(spec, dict) and "custom_obj" in spec:
            raise refused(f"{where}: the program holds a custom object; only tensors are taken.")
    if not inputs:
        raise refused(f"{where}: the program takes no tensor.")
    return inputs, parameters


def _input_name(spec: dict[str, Any]) -> str:
    where = f"{_WHERE}: signature"
    argument = take(spec, "arg", dict, where)
    if "as_tensor" not in argument:
        raise refused(f"{where}: an input is not a tensor; fix it to a constant when you export.")
    name = take(take(argument, "as_tensor", dict, where), "name", str, where)
    if not _INPUT_NAME.fullmatch(name):
        raise refused(f"{where}: an input's name is not an identifier.")
    return name


def _tensor(name: str, values: dict[str, Any], ranges: dict[str, Any]) -> Tensor:
    where = f"{_WHERE}: {name[:64]}"
    meta = take(values, name, dict, where)
    dtype = BY_EXPORT_NUMBER.get(take(meta, "dtype", int, where))
    if dtype is None:
        raise refused(f"{where}: this dtype is not known here.")
    sizes = take(meta, "sizes", list, where)
    return Tensor(name, dtype.name, tuple(_size(size, ranges, where) for size in sizes))


def _static_shape(value: str, values: dict[str, Any], ranges: dict[str, Any]) -> tuple[int, ...]:
    shape = _tensor(value, values, ranges).shape
    static = tuple(size for size in shape if isinstance(size, int))
    if len(static) != len(shape):
        raise refused(f"{_WHERE}: {value[:64]}: a parameter can't have a dynamic dimension.")
    return static


def _size(size: Any, ranges: dict[str, Any], where: str) -> int | Extent:
    if isinstance(size, dict) and "as_int" in size:
        static = take(size, "as_int", int, where)
        if not 0 <= static < 2**63:
            raise refused(f"{where}: a dimension is out of range.")
        return static
    expression = take(take(size, "as_expr", dict, where), "expr_str", str, where)
    symbol = _SYMBOL.fullmatch(expression)
    limits = ranges.get(symbol[1] or symbol[2]) if symbol else None
    # A derived dimension, such as twice another, is known only to the program itself.
    limits = limits if isinstance(limits, dict) else {}
    low, high = limits.get("min_val"), limits.get("max_val")
    return Extent(low if type(low) is int else 0, high if type(high) is int else None)


def _used(nodes: list[Any], parameters: dict[str, str]) -> tuple[set[str], dict[str, str], dict[str, tuple[str, str]]]:
    """Return the parameters that some node takes, the types of the layers that own them, and the layers that use the
    weight of another (tied weights): their type and the weight, by path."""
    if len(nodes) > MAX_NODES:
        raise refused(f"{_WHERE}: the graph has {len(nodes)} nodes; at most {MAX_NODES} are read.")
    used: set[str] = set()
    types: dict[str, str] = {}
    borrowers: dict[str, tuple[str, str]] = {}
    for node in nodes:
        names = {parameters[value] for value in _values_in(take(node, "inputs", list, _WHERE)) if value in parameters}
        used |= names
        stack = _module_stack(node) if names else {}
        for name in names:
            holder = name.rpartition(".")[0]
            if holder in stack:
                types.setdefault(layer_name(name), stack[holder])
            path, kind = next(reversed(stack.items()), ("", ""))
            if kind in _WEIGHTED and path != holder and name.endswith("weight"):
                borrowers.setdefault(path, (kind, name))
    return used, types, borrowers


def _values_in(argument: Any) -> Iterator[str]:
    """Yield every value's name in a node's arguments, however deep."""
    if isinstance(argument, dict):
        name = argument.get("name")
        if isinstance(name, str):
            yield name
        for item in argument.values():
            yield from _values_in(item)
    elif isinstance(argument, list):
        for item in argument:
            yield from _values_in(item)


def _module_stack(node: dict[str, Any]) -> dict[str, str]:
    text = take(node, "metadata", dict, _WHERE).get("nn_module_stack")
    stack: dict[str, str] = {}
    for entry in text.split(";") if isinstance(text, str) else []:
        _, _, rest = entry.partition(",")
        path, comma, qualified = rest.rpartition(",")
        name = qualified.rpartition(".")[2]
        if comma and _CLASS_NAME.fullmatch(name):
            stack[_REPEATED_CALL.sub("", path)] = name
    return stack


def _layers(shapes: dict[str, tuple[int, ...]], types: dict[str, str]) -> tuple[Layer, ...]:
    owned: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        owned.setdefault(layer_name(name), {})[name] = shape
    return tuple(
        Layer(
            name=layer,
            type=types.get(layer, "Module"),
            weight_shape=next((shape for name, shape in mine.items() if "weight" in name.rpartition(".")[2]), None),
            parameters=sum(math.prod(shape) for shape in mine.values()),
        )
        for layer, mine in owned.items()
    )
