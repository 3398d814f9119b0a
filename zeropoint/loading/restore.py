"""A saved file and the float source it came from, put together again as the engine's result."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from zeropoint.errors import InvalidModel
from zeropoint.layers.quantized_layer import Activation, Outliers, QuantizedLayer
from zeropoint.layers.result import Quantized
from zeropoint.layers.selection import select
from zeropoint.loading.stored import Stored
from zeropoint.metrics.sqnr import Noise
from zeropoint.model.layer import Layer
from zeropoint.model.source import Source
from zeropoint.schema.recipe import ActivationSettings, Recipe
from zeropoint.schema.report import NOT_CALIBRATED, SkippedLayer, SkipReason


def restore(source: Source, stored: Stored) -> Quantized:
    """What `quantize_source` gave. Raises InvalidModel, naming the layer, when the source is of another model.

    What calibration saw is not in the file: its report is empty.
    """
    recipe = Recipe.model_validate(stored.about["recipe"])
    own = {layer.name: layer for layer in source.layers if layer.module is not None}
    for name in stored.layers:
        if name not in own or own[name].weight.shape != stored.weight(name)[0].shape:
            raise InvalidModel(
                "module_does_not_fit",
                f"Layer {name!r} of the saved file has no equal in the float model.",
                "Give the float model that was quantized.",
            )
    choices, skipped = select(source.layers, recipe)
    idle = [choice.layer for choice in choices if choice.layer.name not in stored.layers]
    reason: SkipReason = "mixed_precision" if recipe.searches else "never_ran"
    skipped += [SkippedLayer(name=layer.name, type=layer.type, reason=reason) for layer in idle]
    layers = [_layer(layer, stored, stored.layers[name]) for name, layer in own.items() if name in stored.layers]
    return Quantized(source, recipe, layers, skipped, NOT_CALIBRATED, dict(stored.about["versions"]))


def _layer(layer: Layer, stored: Stored, about: Mapping[str, Any]) -> QuantizedLayer:
    numbers, qparams = stored.weight(layer.name)
    channels = stored.correction(layer.name, "outlier_channels")
    restored = QuantizedLayer(
        layer,
        stored.settings(layer.name),
        numbers,
        qparams,
        _activation(layer, stored, about),
        weight_sqnr_db=None,
        bias=stored.correction(layer.name, "bias"),
        pre_quant_scale=stored.correction(layer.name, "pre_quant_scale"),
        scaled_by=stored.scaled_by(layer.name),
        outliers=None if channels is None else Outliers(channels, layer.weight.cpu()[:, channels].contiguous()),
        rounding=about["weight"].get("rounding", "nearest"),
    )
    noise = Noise()
    noise.add(layer.weight.cpu(), restored.effective_weight)
    return replace(restored, weight_sqnr_db=noise.db)


def _activation(layer: Layer, stored: Stored, about: Mapping[str, Any]) -> Activation | None:
    values, said = stored.input(layer.name), about["activation"]
    if values is None:
        return None
    fields = {key: value for key, value in said.items() if key in ActivationSettings.model_fields}
    settings = ActivationSettings.model_validate(fields)
    return Activation(settings, values, said["minimum"], said["maximum"])
