"""Read a weights file as a model: check every tensor, and guess the layers from names and shapes."""

import math
from pathlib import Path

from app.intake.facts import Layer, Model, Warning, Weights
from app.intake.tensors.read import Plan, plan_weights
from app.intake.tensors.safetensors import shown
from zeropoint.schema.weight_layers import OTHER, NamedLayer, layers_in


def read_weights(path: Path) -> Plan[Model]:
    """Check the file, including every value. Raises Invalid with what is wrong, and where."""
    return weights_model(plan_weights(path))


def weights_model(plan: Plan[Weights]) -> Plan[Model]:
    """Return the plan of a model that is these weights."""
    shapes = {stored.name: stored.shape for stored in plan.stored}
    layers = tuple(_fact(layer, shapes) for layer in layers_in(shapes))
    warnings = () if any(layer.type != OTHER for layer in layers) else (_no_layers(layers),)
    facts = Model("safetensors", inputs=(), layers=layers, parameters=plan.facts.parameters, warnings=warnings)
    return Plan(facts, plan.stored)


def _no_layers(layers: tuple[Layer, ...]) -> Warning:
    """Return what the owner of tensors should know of which none looks like a layer's weight."""
    named = ", ".join(repr(shown(layer.name)) for layer in layers[:5])
    return Warning(
        "no_layers",
        f"No tensor is named and shaped like the weight of a layer, so nothing can be quantized: {named}.",
        "Samples are uploaded to POST /v1/datasets. Weights are found by the names that state_dict() gives them.",
        (),
    )


def _fact(layer: NamedLayer, shapes: dict[str, tuple[int, ...]]) -> Layer:
    return Layer(
        name=layer.name,
        type=layer.type,
        weight_shape=None if layer.weight is None else shapes[layer.weight],
        parameters=sum(math.prod(shapes[name]) for name in layer.tensors),
    )
