"""Presets: recipes with a name. To add one, add an entry; the API lists it by itself."""

from dataclasses import dataclass

from zeropoint.schema.algorithms import (
    AlgorithmSettings,
    Awq,
    BiasCorrection,
    FoldNormalization,
    Gptq,
    MixedPrecision,
    MseClipping,
    OutlierSplit,
    Smoothing,
)
from zeropoint.schema.recipe import ActivationSettings, Recipe, WeightSettings

DEFAULT: tuple[AlgorithmSettings, ...] = (FoldNormalization(), MseClipping(), Smoothing(), BiasCorrection())
"""Pieces that cost nothing when the model runs (docs/explanation/accuracy.md)."""

ACCURATE: tuple[AlgorithmSettings, ...] = (
    FoldNormalization(),
    MseClipping(),
    Smoothing(alpha=0.8),
    Smoothing(alpha=0.7),
    OutlierSplit(channels=4),
    OutlierSplit(channels=16),
    Gptq(),
    BiasCorrection(),
    MixedPrecision(),
    BiasCorrection(),
)
"""Everything that raises SQNR, in an order in which each piece can still tell what it is worth."""


@dataclass(frozen=True)
class Preset:
    """A named recipe, what it does and what it needs."""

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
            "int8-static with what improves it and costs nothing when the model runs: MSE clipping for convolutions, "
            "smoothing for linears, bias correction; each only where samples kept out of calibration gain by it.",
            Recipe(algorithms=DEFAULT),
        ),
        Preset(
            "int8-accurate",
            "int8 with all that raises accuracy: outlier channels and the layers that make most noise stay in float, "
            "linears are rounded by GPTQ; slower to make and to run than int8.",
            Recipe(algorithms=ACCURATE),
        ),
        Preset(
            "int8-weight-only",
            "Weights int8 symmetric per channel, activations stay in float; samples only evaluate.",
            Recipe(activations=None),
        ),
        Preset(
            "int4-weight-only",
            "Weights of linears int4 in groups of 32, scaled by AWQ and rounded by GPTQ; activations stay in float.",
            Recipe(
                weights=WeightSettings(dtype="int4"),
                activations=None,
                layer_types=("Linear",),
                algorithms=(Awq(), Gptq()),
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
            "Weights cast to float16, computed with in the model's own dtype; no samples are needed.",
            Recipe(weights=WeightSettings(dtype="float16"), activations=None),
        ),
    )
}


def algorithms_of(recipe: Recipe) -> tuple[AlgorithmSettings, ...]:
    """The algorithms to try: with a target those of the accurate preset, if the recipe names none, and no other choice
    of layers to leave in float than the target's own."""
    if recipe.target is None:
        return recipe.algorithms
    return tuple(algorithm for algorithm in recipe.algorithms or ACCURATE if algorithm.kind != "mixed_precision")
