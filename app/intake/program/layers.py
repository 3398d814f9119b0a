"""Read a checked models/model.json: a program's inputs, and the layers that own its parameters.

A layer's type is the class of the module that holds its parameters, as `nn_module_stack` ("key,path,class;…") names it.
"""

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

from app.intake.facts import MOST_NAMES, Dim, Layer, Model, Tensor, Warning
from app.intake.program.dataflow import names_in
from app.intake.program.module_stack import module_stack
from app.intake.program.refusals import refused
from app.intake.program.symbols import bounds_of
from app.intake.program.training_mode import modules_in_training
from app.intake.program.weights import Weight, weights_of
from app.intake.tensors.dtypes import BY_EXPORT_NUMBER
from zeropoint.schema.layer_names import layer_name, owner_and_leaf, weight_layer_name
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
    used, classes, borrowers = _used(graph["nodes"], parameters)
    weights = weights_of(graph["nodes"], shapes, parameters)
    parts = {
        name: [_static_shape(value, values, ranges) for value in weight.parts.values()]
        for name, weight in weights.items()
        if len(weight.parts) > 1 and all(part.cut for part in weight.parts)
    }
    layers = _layers({name: shape for name, shape in shapes.items() if name in used}, classes, weights, parts)
    listed = {layer.name for layer in layers}
    layers += tuple(
        Layer(path, kind, shapes[name], 0, (name,))
        for path, (kind, name) in {**borrowers, **_further_kinds(weights, borrowers)}.items()
        if path not in listed
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
    symbols = {name: (limits["min_val"], limits["max_val"]) for name, limits in ranges.items()}
    low, high = bounds_of(size["as_expr"]["expr_str"], symbols)
    return Dim(low or 0, high)


def _used(nodes: list[Any], parameters: dict[str, str]) -> tuple[set[str], dict[str, str], dict[str, tuple[str, str]]]:
    """Return the used parameters, the classes of modules by path, and the layers with another layer's weight.

    The third maps the path of a layer with tied weights to its type and the weight's name.
    """
    used: set[str] = set()
    classes: dict[str, str] = {}
    borrowers: dict[str, tuple[str, str]] = {}
    for node in nodes:
        values = (value for entry in node["inputs"] for value in names_in(entry["arg"]))
        names = {parameters[value] for value in values if value in parameters}
        used |= names
        stack = module_stack(node)
        classes |= stack
        for name in names:
            holder = owner_and_leaf(name)[0]
            path, kind = next(reversed(stack.items()), ("", ""))
            if kind in _WEIGHTED and path != holder and name.endswith("weight"):
                borrowers.setdefault(path, (kind, name))
    return used, classes, borrowers


def _further_kinds(
    weights: Mapping[str, Weight], borrowers: Mapping[str, tuple[str, str]]
) -> dict[str, tuple[str, str]]:
    """Return the layers that read the weight of another kind of layer: `tok.linear` beside the embedding `tok`."""
    tied = {name for _, name in borrowers.values()}
    several = {name: weight.kinds[1:] for name, weight in weights.items() if name not in tied}
    return {f"{weight_layer_name(n)}.{kind.lower()}": (kind, n) for n, kinds in several.items() for kind in kinds}


def _layers(
    shapes: dict[str, tuple[int, ...]],
    classes: Mapping[str, str],
    weights: Collection[str],
    parts: Mapping[str, list[tuple[int, ...]]],
) -> tuple[Layer, ...]:
    """Return the layers; `parts`: the shapes of the parts of a parameter that are weights of layers of their own."""
    parameters_by_layer: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        layer = weight_layer_name(name) if name in weights else layer_name(name)
        parameters_by_layer.setdefault(layer, {})[name] = shape
    return tuple(
        layer
        for name, tensors in parameters_by_layer.items()
        for layer in _with_parts(_layer(name, tensors, classes, weights), parts)
    )


def _with_parts(layer: Layer, parts: Mapping[str, list[tuple[int, ...]]]) -> Iterator[Layer]:
    """Yield the layer, or one for each part of its weight."""
    cut = next((name for name in layer.tensors if name in parts), None)
    if cut is None:
        yield layer
        return
    for number, shape in enumerate(parts[cut]):
        yield replace(layer, name=f"{layer.name}.{number}", weight_shape=shape, parameters=math.prod(shape))


def _layer(
    name: str, tensors: Mapping[str, tuple[int, ...]], classes: Mapping[str, str], weights: Collection[str]
) -> Layer:
    shapes = [shape for tensor, shape in tensors.items() if tensor in weights or "weight" in tensor.rpartition(".")[2]]
    return Layer(
        name=name,
        type=classes.get(owner_and_leaf(next(iter(tensors)))[0], "Module"),
        weight_shape=shapes[0] if shapes else None,
        parameters=sum(math.prod(shape) for shape in tensors.values()),
        tensors=tuple(tensors),
    )
