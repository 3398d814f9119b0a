"""Sweeps: what must hold before several recipes share one model, one calibration and one table, and how a row keeps
them."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from app.catalog.models import Model
from app.errors import Fault, Invalid
from app.jobs.admission import source_of
from zeropoint.schema.defaults import complete
from zeropoint.schema.formats import FORMATS, SOURCES, SourceFormat
from zeropoint.schema.recipe import Recipe
from zeropoint.schema.sweep import SweepEntry


@dataclass(frozen=True)
class Sweep:
    """The recipes to compare, and whether the time that a call takes is compared too."""

    entries: tuple[SweepEntry, ...]
    latency: bool = False

    @property
    def recipes(self) -> dict[str, Recipe]:
        """By their places in the request."""
        return {f"/recipes/{position}/recipe": entry.recipe for position, entry in enumerate(self.entries)}

    def completed(self, source: SourceFormat, layers: Collection[str]) -> "Sweep":
        """The same with nothing left open in the recipes."""
        entries = [
            entry.model_copy(update={"recipe": complete(entry.recipe, source, layers)}) for entry in self.entries
        ]
        return Sweep(tuple(entries), self.latency)

    def to_json(self) -> dict[str, Any]:
        """As a row keeps it."""
        return {"recipes": [entry.model_dump(mode="json") for entry in self.entries], "latency": self.latency}

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> "Sweep":
        """From a row."""
        return cls(tuple(SweepEntry.model_validate(entry) for entry in kept["recipes"]), kept["latency"])


def check_sweep(sweep: Sweep, model: Model) -> None:
    """Raise Invalid when the model has no outputs to compare, or the recipes can't share one calibration."""
    source, first = source_of(model), sweep.entries[0].recipe.calibration
    if source == "safetensors":
        _refuse("/model", f"{model.id} is a file of weights: it has no outputs to compare.", "Upload it as a program.")
    if sweep.latency and source not in FORMATS["onnx"].sources:
        detail = f"Latency is measured of ONNX files, which are not written from {SOURCES[source]}."
        _refuse("/latency", detail, "Leave latency out, or upload the model as a program (.pt2).")
    for pointer, recipe in sweep.recipes.items():
        if recipe.mode != "quantize":
            detail = f"The mode {recipe.mode} makes a recipe, and a sweep compares recipes."
            _refuse(f"{pointer}/mode", detail, f"Leave mode out here; POST /v1/jobs takes mode {recipe.mode}.")
        if recipe.calibration != first:
            detail = "A sweep calibrates once, and this recipe's calibration is another than that of the first one."
            _refuse(f"{pointer}/calibration", detail, "Give every recipe the same calibration, or make two sweeps.")


def _refuse(pointer: str, detail: str, remedy: str) -> NoReturn:
    raise Invalid("sweep_invalid", detail, remedy, [Fault(pointer, detail)])
