"""/v1/presets."""

from difflib import get_close_matches

from fastapi import APIRouter

from app.api.schemas import PresetBody, PresetPage
from app.errors import Fault, Invalid
from quantization.presets import PRESETS, Preset

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


def preset_named(name: str) -> Preset:
    """Return a preset. Raises Invalid."""
    if name not in PRESETS:
        near = get_close_matches(name, PRESETS, n=1)
        raise Invalid(
            "preset_not_found",
            f"There is no preset {name!r}{f' (near: {near[0]})' if near else ''}.",
            f"Known are {', '.join(PRESETS)}.",
            [Fault("/preset", "is not a known preset")],
        )
    return PRESETS[name]
