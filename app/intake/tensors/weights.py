"""Read a weights file as a model: check every tensor, and guess the layers from names and shapes."""

import math
from pathlib import Path

from app.intake.facts import Layer, Model, Weights
from app.intake.tensors.read import Plan, plan_weights
from zeropoint.schema.weight_layers import NamedLayer, layers_in


def read_weights(path: Path) -> Plan[Model]:
    """Check the file, including every value. Raises Invalid with what is wrong, and where."""
    return weights_model(plan_weights(path))


def weights_model(plan: Plan[Weights]) -> Plan[Model]:
    """Return the plan of a model that is these weights."""
    shapes = {stored.name: stored.shape for stored in plan.stored}
    layers = tuple(_fact(layer, shapes) for layer in layers_in(shapes))
    return Plan(Model("safetensors", inputs=(), layers=layers, parameters=plan.facts.parameters), plan.stored)


def _fact(layer: NamedLayer, shapes: dict[str, tuple[int, ...]]) -> Layer:
    return Layer(
        name=layer.name,
        type=layer.type,
        weight_shape=None if layer.weight is None else shapes[layer.weight],
        parameters=sum(math.prod(shapes[name]) for name in layer.tensors),
    )
