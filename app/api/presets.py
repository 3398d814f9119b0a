"""/v1/presets."""

from difflib import get_close_matches

from fastapi import APIRouter

from app.api.schemas import PresetBody, PresetPage
from app.errors import Fault, Invalid
from zeropoint.schema.presets import PRESETS, Preset
from zeropoint.schema.recipe import Recipe

router = APIRouter(prefix="/v1/presets", tags=["presets"])


@router.get("")
def list_presets() -> PresetPage:
    """List the named recipes and what they need."""
    return PresetPage(
        items=[
            PresetBody(
                name=preset.name,
                description=preset.description,
                needs_dataset=preset.recipe.needs_dataset,
                recipe=preset.recipe,
            )
            for preset in PRESETS.values()
        ]
    )


def chosen_recipe(recipe: Recipe | None, preset: str | None, pointer: str = "") -> Recipe:
    """Return the recipe that a request names by itself or as a preset, below `pointer`. Raises Invalid."""
    if (recipe is None) == (preset is None):
        who = pointer or "The job"
        raise Invalid(
            "recipe_or_preset",
            f"{who} names neither a recipe nor a preset." if recipe is None else f"{who} names both.",
            "Send recipe as an object, or preset with a name that GET /v1/presets lists.",
            [Fault(f"{pointer}/recipe", "exactly one of recipe and preset is needed")],
        )
    return recipe or preset_named(preset or "", pointer).recipe


def preset_named(name: str, pointer: str = "") -> Preset:
    """Return a preset that is named below `pointer`. Raises Invalid."""
    if name not in PRESETS:
        near = get_close_matches(name, PRESETS, n=1)
        raise Invalid(
            "preset_not_found",
            f"There is no preset {name!r}{f' (near: {near[0]})' if near else ''}.",
            f"Known are {', '.join(PRESETS)}.",
            [Fault(f"{pointer}/preset", "is not a known preset")],
        )
    return PRESETS[name]
