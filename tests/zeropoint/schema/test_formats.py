"""What each kind of upload becomes: the table in the code, the one in the tests, and the one that people read."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import pytest

from tests.matrix import FORMATS, RECIPES, SOURCES, Cell, cells
from zeropoint.schema.formats import FORMATS as KNOWN
from zeropoint.schema.formats import SOURCES as SAID
from zeropoint.schema.formats import SourceFormat, formats_of, unfit
from zeropoint.schema.recipe import Recipe, WeightDtype

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "reference" / "formats.md").read_text()


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("source", SOURCES)
def test_what_is_not_in_the_matrix_is_refused_and_nothing_else(source: SourceFormat, recipe: str) -> None:
    refused = {cell: [found.detail for found in unfit(cell.parsed, source)] for cell in cells(source, recipe)}
    assert {cell: not found for cell, found in refused.items()} == {cell: cell.accepted for cell in refused}


def test_the_matrix_has_every_dtype_and_what_is_done_gives_files() -> None:
    weights = [Recipe.model_validate(recipe).weights for recipe in RECIPES.values()]
    assert {settings.dtype for settings in weights if settings} == set(get_args(WeightDtype))
    for cell in (cell for source in SOURCES for recipe in RECIPES for cell in cells(source, recipe)):
        assert not cell.accepted or formats_of(cell.parsed, cell.source)


def rows() -> Iterator[str]:
    """The table of what is done."""
    yield f"| recipe | | {' | '.join(SAID[source] for source in SOURCES)} |"
    yield f"|---|---|{'---|' * len(SOURCES)}"
    for recipe, wish in RECIPES.items():
        done = [
            [name for name in FORMATS if not list(unfit(Cell(source, recipe, (name,)).parsed, source))]
            for source in SOURCES
        ]
        told = [", ".join(f"`{name}`" for name in names) or "refused" for names in done]
        yield f"| {recipe} | `{json.dumps(wish)}` | {' | '.join(told)} |"


ODD = {
    **RECIPES,
    "scales along another axis": {"weights": {"axis": 1}, "activations": None},
    "a bound for outputs": {"activations": None, "validation": {"min_sqnr_db": 20}},
}


def reasons() -> Iterator[str]:
    """The table of what is refused, and the words for it."""
    yield "| upload | `pointer` | `detail` |"
    yield "|---|---|---|"
    found: dict[str, None] = {}
    for source in SOURCES:
        for foreign in (name for name in FORMATS if source not in KNOWN[name].sources):
            wish = Recipe.model_validate({"activations": None, "formats": [foreign]})
            found |= {line(source, one.pointer, one.detail): None for one in unfit(wish, source)}
        for recipe in ODD.values():
            found |= {
                line(source, one.pointer, one.detail): None for one in unfit(Recipe.model_validate(recipe), source)
            }
    yield from found


def line(source: SourceFormat, pointer: str, detail: str) -> str:
    return f"| {SAID[source]} | `/recipe{pointer}` | {detail} |"


@pytest.mark.parametrize("table", [rows, reasons])
def test_the_page_says_what_the_code_does(table: Callable[[], Iterator[str]]) -> None:
    expected = "\n".join(table())
    assert f"\n\n{expected}\n\n" in PAGE, expected


def test_the_first_table_of_the_page_says_what_is_there_by_default() -> None:
    table = [[cell.strip() for cell in line.split("|")[3:-1]] for line in PAGE.splitlines()[2:7]]
    assert table[0] == [f"`{name}`" for name in FORMATS]
    for source, words in zip(SOURCES, table[2:], strict=True):
        default = formats_of(Recipe(), source)
        told = {name: word in ("always", "by default") for name, word in zip(FORMATS, words, strict=True) if word}
        assert told == {name: name in default for name in FORMATS if source in KNOWN[name].sources}
