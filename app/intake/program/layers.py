"""Read a checked models/model.json: a program's inputs, and the layers that own its parameters.

A layer's type is the class of the module that holds its parameters, as `nn_module_stack` ("key,path,class;…") names it
at a node that uses one of them.
"""

import math
from collections.abc import Iterator
from typing import Any

from app.intake.facts import MOST_NAMES, Dim, Layer, Model, Tensor, Warning
from app.intake.program.dataflow import names_in
from app.intake.program.module_stack import module_stack
from app.intake.program.refusals import refused
from app.intake.program.symbols import symbol_of
from app.intake.program.training_mode import modules_in_training
from app.intake.tensors.dtypes import BY_EXPORT_NUMBER
from zeropoint.schema.layer_names import layer_name
from zeropoint.schema.training_mode import describe

_WHERE = "models/model.json"
_WEIGHTED = ("Linear", "Embedding")
"""Classes whose weight may be tied to another layer's."""


def read_facts(document: dict[str, Any]) -> Model:
    """Return the facts about a program. Raises Invalid when it takes no tensor, or a parameter has no fixed shape."""
    module, ranges = document["graph_module"], document["range_constraints"]
    graph, specs = module["graph"], module["signature"]["input_specs"]
    values = graph["tensor_values"]
    arguments = [spec["user_input"]["arg"] for spec in specs if "user_input" in spec]
    inputs = [argument["as_tensor"]["name"] for argument in arguments if "as_tensor" in argument]
    parameters = {
        spec["parameter"]["arg"]["name"]: spec["parameter"]["parameter_name"] for spec in specs if "parameter" in spec
    }
    if not inputs:
        raise refused(f"{_WHERE}: signature: the program takes no tensor.")
    shapes = {name: _static_shape(value, values, ranges) for value, name in parameters.items()}
    used, types, borrowers = _used(graph["nodes"], parameters)
    layers = _layers({name: shape for name, shape in shapes.items() if name in used}, types)
    listed = {layer.name for layer in layers}
    layers += tuple(
        Layer(path, kind, shapes[name], 0) for path, (kind, name) in borrowers.items() if path not in listed
    )
    return Model(
        format="pt2",
        inputs=tuple(_tensor(name, values, ranges) for name in inputs),
        layers=layers,
        parameters=sum(math.prod(shape) for shape in shapes.values()),
        warnings=tuple(_warnings(document)),
    )


def _warnings(document: dict[str, Any]) -> Iterator[Warning]:
    modules = modules_in_training(document)
    if modules:
        detail, remedy = describe(modules)
        names = [path or kind for path, kind in modules.items()]
        yield Warning("training_mode", detail, remedy, tuple(names[:MOST_NAMES]))


def _tensor(name: str, values: dict[str, Any], ranges: dict[str, Any]) -> Tensor:
    meta = values[name]
    return Tensor(name, BY_EXPORT_NUMBER[meta["dtype"]].name, tuple(_dimension(size, ranges) for size in meta["sizes"]))


def _static_shape(value: str, values: dict[str, Any], ranges: dict[str, Any]) -> tuple[int, ...]:
    shape = _tensor(value, values, ranges).shape
    static = tuple(size for size in shape if isinstance(size, int))
    if len(static) != len(shape):
        raise refused(f"{_WHERE}: {value[:64]}: a parameter can't have a dynamic dimension.")
    return static


def _dimension(size: dict[str, Any], ranges: dict[str, Any]) -> int | Dim:
    if "as_int" in size:
        return int(size["as_int"])
    # A derived dimension, such as twice another, is known only to the program itself.
    limits = ranges.get(symbol_of(size["as_expr"]["expr_str"]) or "", {"min_val": None, "max_val": None})
    return Dim(limits["min_val"] or 0, limits["max_val"])


def _used(nodes: list[Any], parameters: dict[str, str]) -> tuple[set[str], dict[str, str], dict[str, tuple[str, str]]]:
    """Return the used parameters, the types of the layers that own them, and the layers with another layer's weight.

    The first is a set of names, the second maps a layer to its type, and the third maps the path of a layer with tied
    weights to its type and the weight's name.
    """
    used: set[str] = set()
    types: dict[str, str] = {}
    borrowers: dict[str, tuple[str, str]] = {}
    for node in nodes:
        values = (value for entry in node["inputs"] for value in names_in(entry["arg"]))
        names = {parameters[value] for value in values if value in parameters}
        used |= names
        stack = module_stack(node) if names else {}
        for name in names:
            holder = name.rpartition(".")[0]
            if holder in stack:
                types.setdefault(layer_name(name), stack[holder])
            path, kind = next(reversed(stack.items()), ("", ""))
            if kind in _WEIGHTED and path != holder and name.endswith("weight"):
                borrowers.setdefault(path, (kind, name))
    return used, types, borrowers


def _layers(shapes: dict[str, tuple[int, ...]], types: dict[str, str]) -> tuple[Layer, ...]:
    parameters_by_layer: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        parameters_by_layer.setdefault(layer_name(name), {})[name] = shape
    return tuple(
        Layer(
            name=layer,
            type=types.get(layer, "Module"),
            weight_shape=next((shape for name, shape in tensors.items() if "weight" in name.rpartition(".")[2]), None),
            parameters=sum(math.prod(shape) for shape in tensors.values()),
        )
        for layer, tensors in parameters_by_layer.items()
    )
