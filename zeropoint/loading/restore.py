"""Restore the engine's result from a saved file and the float source that it came from."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from zeropoint.errors import InvalidModel
from zeropoint.graph.preparing import prepared
from zeropoint.layers.absorption import absorbed_factors, with_factors
from zeropoint.layers.quantized_layer import Activation, Outliers, QuantizedLayer
from zeropoint.layers.result import Quantized
from zeropoint.layers.selection import select
from zeropoint.loading.stored import Stored
from zeropoint.metrics.sqnr import Noise
from zeropoint.model.layer import Layer
from zeropoint.model.source import Source
from zeropoint.schema.recipe import ActivationSettings
from zeropoint.schema.report import NOT_CALIBRATED, SkippedLayer, SkipReason


def restore(source: Source, stored: Stored) -> Quantized:
    """Return the result of `quantize_source`. Raises InvalidModel, naming the layer, when the source is another model.

    The file does not hold what calibration measured, so its report is empty.
    """
    recipe = stored.recipe
    float_layers = {layer.name: layer for layer in source.layers if layer.module is not None}
    for name in stored.layers:
        if name not in float_layers or float_layers[name].weight.shape != stored.weight(name)[0].shape:
            raise InvalidModel(
                "module_does_not_fit",
                f"The float model has no layer {name!r} of the saved weight's shape.",
                "Pass the float model that was quantized.",
            )
    choices, skipped = select(source.layers, recipe)
    unquantized = [choice.layer for choice in choices if choice.layer.name not in stored.layers]
    reason: SkipReason = "mixed_precision" if recipe.searches else "never_ran"
    skipped += [SkippedLayer(name=layer.name, type=layer.type, reason=reason) for layer in unquantized]
    factors = absorbed_factors(
        {name: stored.correction(name, "pre_quant_scale") for name in stored.layers},
        {name: stored.scaled_by(name) for name in stored.layers},
        source.layers,
    )
    layers = [
        _layer(layer, stored, stored.layers[name], factors.get(name))
        for name, layer in float_layers.items()
        if name in stored.layers
    ]
    source = prepared(source, [choice.layer.name for choice in choices])
    return Quantized(source, recipe, layers, skipped, NOT_CALIBRATED, dict(stored.about["versions"]))


def _layer(layer: Layer, stored: Stored, about: Mapping[str, Any], absorbed: Tensor | None) -> QuantizedLayer:
    """Return the layer without what it absorbs of the next layer's input scale."""
    quantized_values, qparams = stored.weight(layer.name)
    channels = stored.correction(layer.name, "outlier_channels")
    restored = QuantizedLayer(
        layer,
        stored.settings(layer.name),
        quantized_values,
        qparams,
        _activation(layer, stored, about),
        weight_sqnr_db=None,
        bias=stored.correction(layer.name, "bias"),
        pre_quant_scale=stored.correction(layer.name, "pre_quant_scale"),
        scaled_by=stored.scaled_by(layer.name),
        outliers=None if channels is None else Outliers(channels, layer.weight.cpu()[:, channels].contiguous()),
        rounding=about["weight"].get("rounding", "nearest"),
    )
    if absorbed is not None:
        restored = with_factors(restored, 1 / absorbed)
    noise = Noise()
    noise.add(layer.weight.cpu(), restored.effective_weight)
    return replace(restored, weight_sqnr_db=noise.db)


def _activation(layer: Layer, stored: Stored, about: Mapping[str, Any]) -> Activation | None:
    qparams, metadata = stored.input(layer.name), about["activation"]
    if qparams is None:
        return None
    fields = {key: value for key, value in metadata.items() if key in ActivationSettings.model_fields}
    settings = ActivationSettings.model_validate(fields)
    return Activation(settings, qparams, metadata["minimum"], metadata["maximum"])
