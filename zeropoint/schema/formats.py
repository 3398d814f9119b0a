"""Artifacts: which files a job produces, from which source, under which recipe. Torch-free.

The API refuses by this table, the engine writes by it, the worker expects by it. To add a format: its name in
`recipe.FormatName`, its line here, its writer in `zeropoint/formats/`.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from zeropoint.schema.checkpoint_files import CONFIG_FILE, KINDS, WEIGHTS_FILE
from zeropoint.schema.layer_patterns import Mismatch
from zeropoint.schema.recipe import CASTS, FormatName, Pair, Recipe

SourceFormat = Literal["pt2", "huggingface", "safetensors"]

SAFETENSORS_FILE = WEIGHTS_FILE
PROGRAM_FILE = "model.pt2"
ONNX_FILE = "model.onnx"

SOURCES: Mapping[str, str] = {
    "pt2": "an exported program (.pt2)",
    "huggingface": "a Hugging Face folder",
    "safetensors": "a file of weights (.safetensors)",
}
"""What an upload is called in messages."""

WhyNot = Callable[[Pair], str | None]
"""Why settings can't be written in a format, in words that follow "…: "; None when they can."""


@dataclass(frozen=True)
class Format:
    """A way to write a result. `kinds`: file name pattern -> artifact kind; `required`: names that are always there."""

    sources: tuple[SourceFormat, ...]
    by_default: bool
    kinds: Mapping[str, re.Pattern[str]]
    required: tuple[str, ...]
    why_not: WhyNot = lambda _: None


def _one(kind: str, name: str) -> dict[str, re.Pattern[str]]:
    return {kind: re.compile(re.escape(name))}


def _not_in_a_folder(pair: Pair) -> str | None:
    """compressed-tensors describes a weight by its output channels, and knows no single layer that is merely cast."""
    if pair.weights is None:
        return None
    if pair.weights.dtype in CASTS:
        return f"{pair.weights.dtype} is a cast, which AutoModel.from_pretrained(..., dtype=...) does by itself"
    if pair.weights.axis not in (None, 0):
        return "scales lie along the output channels alone: leave axis out"
    return None


FORMATS: Mapping[FormatName, Format] = {
    "safetensors": Format(("pt2", "safetensors"), True, _one("safetensors", SAFETENSORS_FILE), (SAFETENSORS_FILE,)),
    "pt2": Format(("pt2",), True, _one("program", PROGRAM_FILE), (PROGRAM_FILE,)),
    "onnx": Format(("pt2",), False, _one("onnx", ONNX_FILE), (ONNX_FILE,)),
    "huggingface": Format(
        ("huggingface",),
        True,
        KINDS,
        (CONFIG_FILE,),
        _not_in_a_folder,
    ),
}


def kind_in(entry: Format, name: str) -> str | None:
    """What kind of artifact a file of this name is in the format; None when the format has no such file."""
    return next((kind for kind, names in entry.kinds.items() if names.fullmatch(name)), None)


def formats_of(recipe: Recipe, source: SourceFormat) -> tuple[FormatName, ...]:
    """The formats that the recipe asks for, in the table's order; those that a source always has are among them."""
    if recipe.mode == "recommend":
        return ()
    wanted = recipe.formats or [name for name, known in FORMATS.items() if known.by_default]
    always = {"pt2": "safetensors"}.get(source)
    return tuple(n for n, known in FORMATS.items() if source in known.sources and (n in wanted or n == always))


def unfit(recipe: Recipe, source: SourceFormat) -> Iterator[Mismatch]:
    """What of the recipe can't be done with such an upload."""
    for position, name in enumerate(recipe.formats or ()):
        if source not in FORMATS[name].sources:
            known = ", ".join(n for n, entry in FORMATS.items() if source in entry.sources)
            yield Mismatch(f"/formats/{position}", f"{name} is not written from {SOURCES[source]}; known are: {known}.")
    if source == "safetensors":
        yield from _unrunnable(recipe)
    if source == "safetensors" and recipe.validation.min_sqnr_db is not None:
        detail = "a file of weights has no outputs to measure SQNR on; the report has that of each weight."
        yield Mismatch("/validation/min_sqnr_db", detail)
    pairs: list[tuple[str, Pair]] = [("", recipe)]
    pairs += [(f"/overrides/{i}", override) for i, override in enumerate(recipe.overrides)]
    for pointer, pair in pairs:
        if source == "safetensors" and pair.weights is not None and pair.activations is not None:
            detail = "a file of weights has no graph to calibrate: set activations to null (preset int8-weight-only)."
            yield Mismatch(f"{pointer}/activations", detail)
        for name in formats_of(recipe, source):
            if why := FORMATS[name].why_not(pair):
                yield Mismatch(f"{pointer}/weights", f"{name}: {why}.")


def _unrunnable(recipe: Recipe) -> Iterator[Mismatch]:
    """What of the recipe runs the model, which a file of weights can't."""
    detail = "a file of weights has no graph to run: give the model as a program (.pt2), or leave this out."
    for field, asked in (
        ("algorithms", recipe.algorithms),
        ("target", recipe.target),
        ("sensitivity", recipe.sensitivity),
    ):
        if asked:
            yield Mismatch(f"/{field}", detail)
    if recipe.mode == "recommend":
        yield Mismatch("/mode", detail)
