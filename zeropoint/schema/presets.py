"""Presets: named recipes. The API lists every entry."""

from dataclasses import dataclass

from zeropoint.schema.algorithms import (
    AlgorithmSettings,
    Awq,
    BiasCorrection,
    Equalization,
    FoldNormalization,
    Gptq,
    MixedPrecision,
    MseClipping,
    OutlierSplit,
    Smoothing,
)
from zeropoint.schema.recipe import ActivationSettings, Recipe, WeightSettings

PLAIN_CONVOLUTIONS = ("Conv1d", "Conv2d", "Conv3d")
CONVOLUTIONS = (*PLAIN_CONVOLUTIONS, "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d")
MATRICES = ("Linear", "LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell")
"""Layers that multiply matrices, recurrent ones included, by type or by what they compute."""

CLIPPING: tuple[AlgorithmSettings, ...] = (
    MseClipping(layer_types=CONVOLUTIONS),
    MseClipping(layer_types=CONVOLUTIONS, ignore_outliers=True),
    MseClipping(layer_types=MATRICES),
    MseClipping(layer_types=MATRICES, ignore_outliers=True),
)
"""Ranges that don't follow one outlier, for each kind of layer by itself: what helps convolutions may hurt linears."""

DEFAULT: tuple[AlgorithmSettings, ...] = (
    FoldNormalization(),
    Equalization(),
    *CLIPPING,
    Smoothing(),
    BiasCorrection(),
)
"""Algorithms that cost nothing when the model runs (docs/explanation/accuracy.md)."""

ACCURATE: tuple[AlgorithmSettings, ...] = (
    FoldNormalization(),
    Equalization(),
    *CLIPPING,
    Smoothing(alpha=0.8),
    Smoothing(alpha=0.7),
    OutlierSplit(channels=4),
    OutlierSplit(channels=16),
    Gptq(),
    BiasCorrection(),
    MixedPrecision(),
    BiasCorrection(),
)
"""Every algorithm that raises SQNR, ordered so that each one's gain can be measured."""


@dataclass(frozen=True)
class Preset:
    """A named recipe, and what it does and needs."""

    name: str
    description: str
    recipe: Recipe


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            "int8-static",
            "Weights int8 symmetric per channel; activations uint8 asymmetric per tensor from calibration, "
            "int8 symmetric for a Hugging Face folder.",
            Recipe(),
        ),
        Preset(
            "int8",
            "int8-static with what improves it and costs nothing when the model runs: ranges with the least error, "
            "which don't follow one outlier, equalized channels between layers, smoothing for linears, bias "
            "correction; each is kept only if it improves accuracy on held-out samples.",
            Recipe(algorithms=DEFAULT),
        ),
        Preset(
            "int8-accurate",
            "int8 with every algorithm that raises accuracy: outlier channels and the noisiest layers stay in float, "
            "linears are rounded by GPTQ; slower to quantize and to run than int8.",
            Recipe(algorithms=ACCURATE),
        ),
        Preset(
            "int8-weight-only",
            "Weights int8 symmetric per channel, activations stay in float; samples are used only for evaluation.",
            Recipe(activations=None),
        ),
        Preset(
            "int4-weight-only",
            "Weights of linears int4 in groups of 32, scaled by AWQ and rounded by GPTQ; what int4 can't hold "
            "(convolutions, inputs that are no multiple of 32) int8 per channel, or float16 where int8 costs accuracy; "
            "activations stay in float.",
            Recipe(
                weights=WeightSettings(dtype="int4"),
                activations=None,
                fallback="int8",
                algorithms=(Awq(), Gptq(), Gptq(layer_types=PLAIN_CONVOLUTIONS), BiasCorrection()),
            ),
        ),
        Preset(
            "float8-static",
            "Weights float8_e4m3 per channel; activations float8_e4m3 per tensor from calibration.",
            Recipe(
                weights=WeightSettings(dtype="float8_e4m3"),
                activations=ActivationSettings(dtype="float8_e4m3", scheme="symmetric"),
            ),
        ),
        Preset(
            "float16",
            "Weights cast to float16 and computed in the model's own dtype; no samples are needed.",
            Recipe(weights=WeightSettings(dtype="float16"), activations=None),
        ),
    )
}


def algorithms_of(recipe: Recipe) -> tuple[AlgorithmSettings, ...]:
    """Return the algorithms to try.

    With a target, these are the recipe's or else the accurate preset's, without mixed_precision: the target itself
    decides which layers stay in float.
    """
    if recipe.target is None:
        return recipe.algorithms
    return tuple(algorithm for algorithm in recipe.algorithms or ACCURATE if algorithm.kind != "mixed_precision")
