"""Turn a profile's statistics into static activation ranges and qparams, and warn where the statistics are weak."""

from collections.abc import Sequence

from zeropoint.calibration.collect import fused_output_name
from zeropoint.calibration.profile import CALIBRATE_AGAIN, Profile
from zeropoint.errors import InvalidProfile, InvalidSamples
from zeropoint.layers.quantized_layer import Activation, input_spec
from zeropoint.layers.selection import Choice
from zeropoint.model.layer import Layer
from zeropoint.observers import observer_for
from zeropoint.observers.statistics import Statistics
from zeropoint.schema.recipe import ActivationSettings, MseObserver

FEW_SAMPLES = 32
"""Fewer samples lose over 1 dB on the digits network; docs/explanation/quantization.md measures both bounds."""
LATE_GROWTH = 0.25
"""Share of a range that the last quarter of the batches may add without a warning."""


def static_inputs(choices: Sequence[Choice], profile: Profile) -> dict[str, Activation]:
    """Return the static range and qparams of each chosen layer's input, by layer name.

    Raises InvalidSamples with the layer's name when an input became NaN or infinite, InvalidProfile when statistics are
    missing.
    """
    return {
        choice.layer.name: _activation(choice.layer, choice.activations, profile)
        for choice in choices
        if choice.activations is not None
    }


def static_outputs(choices: Sequence[Choice], profile: Profile) -> dict[str, Activation]:
    """Return the static range and qparams of each chosen convolution's fused output, by layer name.

    Rectified ones are chosen as those of inputs are. Others are residual branches, which have few large values: their
    ranges have the least error, unless the profile has no histogram of them. The same errors are raised. Layers in
    float8 are left out, since no runtime has a convolution with float8 outputs.
    """
    return {
        choice.layer.name: _activation(choice.layer, choice.activations, profile, output=True)
        for choice in choices
        if choice.activations is not None and choice.activations.dtype != "float8_e4m3"
        if choice.layer.fused_output is not None
    }


def thin_spots(profile: Profile, names: Sequence[str]) -> list[str]:
    """Return warnings where these layers' statistics may be too weak.

    Each begins with a stable code (docs/explanation/quantization.md).
    """
    spots = []
    if profile.samples < FEW_SAMPLES:
        spots.append(f"few_samples: {profile.samples}; {FEW_SAMPLES} or more give steadier ranges.")
    growth = {name: profile.layers[name].late_growth or 0.0 for name in names}
    moving = sorted((name for name in names if growth[name] > LATE_GROWTH), key=lambda name: -growth[name])
    if moving:
        worst = ", ".join(repr(name) for name in moving[:5])
        share = f"{LATE_GROWTH:.0%}".replace("%", " %")
        spots.append(f"still_moving: ranges that grew by over {share} in the last quarter: {len(moving)} ({worst}).")
    return spots


def _activation(layer: Layer, settings: ActivationSettings, profile: Profile, *, output: bool = False) -> Activation:
    place = f"{'output' if output else 'input'} of layer {layer.name!r}"
    statistics = profile.layers.get(fused_output_name(layer.name) if output else layer.name)
    observer = observer_for(MseObserver() if output and _is_two_sided(statistics) else settings.observer)
    target = input_spec(layer, settings)
    if statistics is not None and not statistics.finite:
        raise InvalidSamples(
            "non_finite_activations",
            f"The {place} becomes NaN or infinite during calibration.",
            "Check that the float model gives finite outputs on these samples.",
        )
    if statistics is None or (observer.needs_histogram and statistics.histogram is None):
        raise InvalidProfile(
            "profile_incomplete",
            f"The profile lacks statistics of the {place} that the recipe's observer needs.",
            CALIBRATE_AGAIN,
        )
    return Activation.choose(settings, target, *observer.of_statistics(statistics, target))


def _is_two_sided(statistics: Statistics | None) -> bool:
    """Return whether there are values on both sides of zero, and a histogram of them."""
    return statistics is not None and statistics.histogram is not None and statistics.minimum < 0 < statistics.maximum
