"""Artifact formats: which files a job produces, from which source, under which recipe. Torch-free.

The API checks requests against this table, the engine writes by it, and the worker expects its files. To add a format:
its name in `recipe.FormatName`, its line here, its writer in `zeropoint/formats/`.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from zeropoint.schema.checkpoint_files import CONFIG_FILE, KINDS, WEIGHTS_FILE
from zeropoint.schema.layer_patterns import Mismatch
from zeropoint.schema.recipe import CASTS, FormatName, LayerSettings, Recipe

SourceFormat = Literal["pt2", "huggingface", "safetensors"]

SAFETENSORS_FILE = WEIGHTS_FILE
PROGRAM_FILE = "model.pt2"
ONNX_FILE = "model.onnx"

SOURCES: Mapping[str, str] = {
    "pt2": "an exported program (.pt2)",
    "huggingface": "a Hugging Face folder",
    "safetensors": "a file of weights (.safetensors)",
}
"""Names of the sources in messages."""

WhyNot = Callable[[LayerSettings], str | None]
"""Return why a format can't store these settings, in words that follow "…: "; None when it can."""


@dataclass(frozen=True)
class Format:
    """An artifact format. `kinds`: artifact kind -> file name pattern; `required`: files that are always written."""

    sources: tuple[SourceFormat, ...]
    by_default: bool
    kinds: Mapping[str, re.Pattern[str]]
    required: tuple[str, ...]
    why_not: WhyNot = lambda _: None


def _one(kind: str, name: str) -> dict[str, re.Pattern[str]]:
    return {kind: re.compile(re.escape(name))}


def _not_in_a_folder(settings: LayerSettings) -> str | None:
    """Return why compressed-tensors can't store these settings; None when it can.

    It has scales along the output channels only, and no entry for a layer that is merely cast.
    """
    if settings.weights is None:
        return None
    if settings.weights.dtype in CASTS:
        return f"{settings.weights.dtype} is a cast, which AutoModel.from_pretrained(..., dtype=...) does by itself"
    if settings.weights.axis not in (None, 0):
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
    """Return the artifact kind of a file name in the format; None when the format has no such file."""
    return next((kind for kind, names in entry.kinds.items() if names.fullmatch(name)), None)


def formats_of(recipe: Recipe, source: SourceFormat) -> tuple[FormatName, ...]:
    """Return the formats to write, in the table's order, including those that a source always gets."""
    if recipe.mode == "recommend":
        return ()
    requested = recipe.formats or [name for name, known in FORMATS.items() if known.by_default]
    always = {"pt2": "safetensors"}.get(source)
    return tuple(n for n, known in FORMATS.items() if source in known.sources and (n in requested or n == always))


def unfit(recipe: Recipe, source: SourceFormat) -> Iterator[Mismatch]:
    """Yield the parts of the recipe that can't be done with this source."""
    for position, name in enumerate(recipe.formats or ()):
        if source not in FORMATS[name].sources:
            known = ", ".join(n for n, entry in FORMATS.items() if source in entry.sources)
            yield Mismatch(f"/formats/{position}", f"{name} is not written from {SOURCES[source]}; known are: {known}.")
    if source != "pt2" and recipe.merge_lora:
        detail = f"adapters are found in a graph, which {SOURCES[source]} lacks: give the model as a program (.pt2)."
        yield Mismatch("/merge_lora", detail)
    if source == "safetensors" and recipe.validation.min_sqnr_db is not None:
        detail = "a file of weights has no outputs to measure SQNR on; the report has that of each weight."
        yield Mismatch("/validation/min_sqnr_db", detail)
    all_settings: list[tuple[str, LayerSettings]] = [("", recipe)]
    all_settings += [(f"/overrides/{i}", override) for i, override in enumerate(recipe.overrides)]
    for pointer, settings in all_settings:
        if source == "safetensors" and settings.weights is not None and settings.activations is not None:
            detail = "a file of weights has no graph to calibrate: set activations to null (preset int8-weight-only)."
            yield Mismatch(f"{pointer}/activations", detail)
        for name in formats_of(recipe, source):
            if why := FORMATS[name].why_not(settings):
                yield Mismatch(f"{pointer}/weights", f"{name}: {why}.")
    if source == "safetensors":
        yield from _unrunnable(recipe)


def _unrunnable(recipe: Recipe) -> Iterator[Mismatch]:
    """Yield the parts of the recipe that run the model, which a weights file can't do."""
    for pointer, requested in (
        ("/algorithms", recipe.algorithms),
        ("/target", recipe.target),
        ("/sensitivity", recipe.sensitivity),
        ("/mode", recipe.mode == "recommend"),
        ("/validation/latency", recipe.validation.latency),
    ):
        if requested:
            what = "the mode recommend" if pointer == "/mode" else pointer.rpartition("/")[2]
            detail = f"a file of weights has no graph to run: leave {what} out, or give the model as a program (.pt2)."
            yield Mismatch(pointer, detail)
