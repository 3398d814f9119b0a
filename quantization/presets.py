"""Presets: recipes with a name. To add one, add an entry; the API lists it by itself."""

from dataclasses import dataclass

from quantization.recipe import Recipe


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
            "int8-weight-only",
            "Weights int8 symmetric per channel, activations stay in float; samples only evaluate.",
            Recipe(activations=None),
        ),
    )
}
