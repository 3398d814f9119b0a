"""What a job does: quantize with one recipe, or compare several in a sweep.

Both kinds wait in one queue and end alike; whatever depends on the kind is an operation of its work.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

from app.catalog.models import Model
from app.errors import Fault, Invalid
from app.jobs.admission import source_of
from app.jobs.kinds import ID_PREFIXES, JobKind
from app.jobs.models import Job
from zeropoint.schema.defaults import complete
from zeropoint.schema.formats import FORMATS, SOURCES, SourceFormat, formats_of
from zeropoint.schema.job import REPORT_FILE, SWEEP_FILE
from zeropoint.schema.recipe import FormatName, Recipe
from zeropoint.schema.report import Report
from zeropoint.schema.sweep import SweepEntry, SweepReport


@dataclass(frozen=True)
class QuantizeWork:
    """One recipe on one model."""

    recipe: Recipe

    kind: ClassVar = JobKind.QUANTIZE
    id_prefix: ClassVar = ID_PREFIXES[kind]
    result_file: ClassVar = REPORT_FILE
    result_type: ClassVar[type[Report]] = Report

    @property
    def recipes(self) -> dict[str, Recipe]:
        """Return the recipe by its pointer into the request."""
        return {"/recipe": self.recipe}

    def check(self, model: Model) -> None:
        """Accept every model: what a recipe needs is checked for each recipe of any work."""

    def completed(self, source: SourceFormat, layers: Collection[str]) -> "QuantizeWork":
        """Return the same work with every default of the recipe written out."""
        return QuantizeWork(complete(self.recipe, source, layers))

    def formats(self, source: SourceFormat) -> tuple[FormatName, ...]:
        """Return the formats of the artifacts that the job must write beside its result file."""
        return formats_of(self.recipe, source)

    def to_json(self) -> dict[str, Any]:
        """Return the work as the request has it."""
        return {"recipe": self.recipe.model_dump(mode="json")}

    def columns(self) -> dict[str, Any]:
        """Return the columns of a job's row that hold the work."""
        return {"kind": self.kind, **self.to_json()}

    def spec(self) -> dict[str, Any]:
        """Return the fields of a JobSpec that hold the work."""
        return {"recipe": self.recipe}

    def manifest(self) -> dict[str, Any]:
        """Return the entries of a manifest that say what was asked for."""
        return {**self.to_json(), "seed": self.recipe.seed}


@dataclass(frozen=True)
class SweepWork:
    """Several recipes on one model, calibrated once, and a table that compares them.

    `latency`: measure the time of a call too.
    """

    entries: tuple[SweepEntry, ...]
    latency: bool = False

    kind: ClassVar = JobKind.SWEEP
    id_prefix: ClassVar = ID_PREFIXES[kind]
    result_file: ClassVar = SWEEP_FILE
    result_type: ClassVar[type[SweepReport]] = SweepReport

    @property
    def recipe(self) -> Recipe:
        """Return the first recipe: all of them have its calibration."""
        return self.entries[0].recipe

    @property
    def recipes(self) -> dict[str, Recipe]:
        """Return the recipes by their pointers into the request."""
        return {f"/recipes/{position}/recipe": entry.recipe for position, entry in enumerate(self.entries)}

    def check(self, model: Model) -> None:
        """Raise Invalid when the model has no outputs to compare, or the recipes can't share one calibration."""
        source = source_of(model)
        if source == "safetensors":
            detail = f"{model.id} is a file of weights: it has no outputs to compare."
            _refuse("/model", detail, "Upload it as a program.")
        if self.latency and source not in FORMATS["onnx"].sources:
            detail = f"Latency is measured on ONNX files, which are not written from {SOURCES[source]}."
            _refuse("/latency", detail, "Leave latency out, or upload the model as a program (.pt2).")
        for pointer, recipe in self.recipes.items():
            if recipe.mode != "quantize":
                detail = f"The mode {recipe.mode} makes a recipe, and a sweep compares recipes."
                _refuse(f"{pointer}/mode", detail, f"Leave mode out here; POST /v1/jobs takes mode {recipe.mode}.")
            if recipe.calibration != self.recipe.calibration:
                detail = "A sweep calibrates once, and this recipe's calibration differs from that of the first one."
                _refuse(f"{pointer}/calibration", detail, "Give every recipe the same calibration, or make two sweeps.")

    def completed(self, source: SourceFormat, layers: Collection[str]) -> "SweepWork":
        """Return the same work with every default of its recipes written out."""
        entries = (
            entry.model_copy(update={"recipe": complete(entry.recipe, source, layers)}) for entry in self.entries
        )
        return SweepWork(tuple(entries), self.latency)

    def formats(self, _source: SourceFormat) -> tuple[FormatName, ...]:
        """Return none: a sweep writes its table alone."""
        return ()

    def to_json(self) -> dict[str, Any]:
        """Return the work as the request has it."""
        return {"recipes": [entry.model_dump(mode="json") for entry in self.entries], "latency": self.latency}

    def columns(self) -> dict[str, Any]:
        """Return the columns of a job's row that hold the work."""
        return {"kind": self.kind, "recipe": self.recipe.model_dump(mode="json"), "sweep": self.to_json()}

    def spec(self) -> dict[str, Any]:
        """Return the fields of a JobSpec that hold the work."""
        return {"recipe": self.recipe, "sweep": self.entries, "latency": self.latency}

    def manifest(self) -> dict[str, Any]:
        """Return the entry of a manifest that says what was asked for."""
        return {"sweep": self.to_json()}


Work = QuantizeWork | SweepWork


def work_of(job: Job) -> Work:
    """Return the work that a job's row holds."""
    match JobKind(job.kind):
        case JobKind.QUANTIZE:
            return QuantizeWork(Recipe.model_validate(job.recipe))
        case JobKind.SWEEP:
            stored: Any = job.sweep
            return SweepWork(tuple(map(SweepEntry.model_validate, stored["recipes"])), stored["latency"])


def _refuse(pointer: str, detail: str, remedy: str) -> NoReturn:
    raise Invalid("sweep_invalid", detail, remedy, [Fault(pointer, detail)])
