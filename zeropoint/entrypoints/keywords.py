"""Turn the keywords of `quantize` into fields of a recipe."""

from collections.abc import Iterable, Iterator, Mapping

from pydantic import ValidationError

from zeropoint.errors import InvalidRecipe, invalid_recipe
from zeropoint.schema.faults import first_fault, keys_of
from zeropoint.schema.layer_patterns import nearest
from zeropoint.schema.presets import PRESETS
from zeropoint.schema.recipe import Recipe

Types = Iterable[type | str] | type | str


def resolve(
    recipe: Recipe | Mapping[str, object] | str, on_failure: str | None, lists: Mapping[str, Types | None]
) -> Recipe:
    """Return the recipe, with its fields replaced by `on_failure` and `lists` (layer types and patterns) where given.

    Raises InvalidRecipe when there is no such preset, or a field doesn't validate.
    """
    if isinstance(recipe, str):
        if recipe not in PRESETS:
            raise InvalidRecipe(
                "preset_not_found",
                f"There is no preset {recipe!r}{nearest(recipe, PRESETS)}.",
                f"Take one of: {', '.join(sorted(PRESETS))}, or give the recipe as a mapping.",
            )
        recipe = PRESETS[recipe].recipe
    base = recipe if isinstance(recipe, Recipe) else _validated(recipe)
    fields: dict[str, object] = {name: getattr(base, name) for name in base.model_fields_set}
    for name, wishes in lists.items():
        if wishes is not None:
            fields[name] = list(_names(name, wishes))
    if on_failure is not None:
        fields["validation"] = {**base.validation.model_dump(), "on_failure": on_failure}
    return _validated(fields)


def _names(field: str, wishes: Types) -> Iterator[str]:
    """Yield names, those of types included; one alone need not be in a list."""
    for wish in [wishes] if isinstance(wishes, str | type) or not isinstance(wishes, Iterable) else wishes:
        if not isinstance(wish, str | type):
            raise invalid_recipe(f"/{field}", f"holds {wish!r}, which is neither a name nor a type")
        yield wish if isinstance(wish, str) else wish.__name__


def _validated(fields: Mapping[str, object]) -> Recipe:
    try:
        return Recipe.model_validate(fields)
    except ValidationError as error:
        pointer, problem = first_fault(error, keys_of(Recipe))
        if pointer == "/preset":
            problem = 'is not a key of a recipe: give the preset\'s name in place of the mapping, recipe="int8"'
        raise invalid_recipe(pointer, problem) from None
