"""The Python API: `quantize` takes a module or a program and samples in memory, and returns a validated result."""

import shutil
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Literal

import torch
from torch import nn
from torch.export import ExportedProgram

from zeropoint.data.batches import ModelInputs, batch_sizes
from zeropoint.data.calls import CallDataset, IterableBatches, read_calls, reader_for, reader_for_module
from zeropoint.data.items import ModelInputsChoice
from zeropoint.data.rows import BatchSizes, items_of
from zeropoint.engine.plan import most_samples
from zeropoint.entrypoints import steps
from zeropoint.entrypoints.clock import Clock
from zeropoint.entrypoints.keywords import Types, resolve
from zeropoint.entrypoints.module_program import Exportable, add_program, example_of
from zeropoint.entrypoints.outcome import conclude
from zeropoint.entrypoints.program_in_place import program_in_place
from zeropoint.entrypoints.progress_bar import shown
from zeropoint.entrypoints.steps import Outputs, ProfilePlaces, Saved, Work
from zeropoint.errors import InvalidProfile, InvalidRecipe, Unsupported
from zeropoint.formats import MODULE_FORMATS, drop_unwanted, require_writers
from zeropoint.layers.selection import require_fit
from zeropoint.loading.in_process import ReopenedModule
from zeropoint.loading.loadback import second_process
from zeropoint.loading.plan import Plan
from zeropoint.loading.quantized_model import QuantizedModel, open_module, saved_files
from zeropoint.model.source import Source
from zeropoint.schema.formats import PROGRAM_FILE
from zeropoint.schema.job import REPORT_FILE, PhaseCallback, Progress
from zeropoint.schema.recipe import DEFAULT_BATCH_SIZE, Recipe
from zeropoint.schema.report import Loaded, Report
from zeropoint.simulation.processor import torch_level
from zeropoint.sources.module import ModuleSource, module_source, require_named
from zeropoint.sources.program import open_uploaded_program, program_source
from zeropoint.sources.shared_reads import without_shared_weights
from zeropoint.validation.runtimes import not_compiled

Model = nn.Module | ExportedProgram | str | Path
Read = tuple[CallDataset | None, IterableBatches | None]
"""Samples that calibrate, and those that evaluate."""


@dataclass(frozen=True)
class Data:
    """Calls of the model, as `calls` describes them, and the file with their statistics."""

    calibration: object
    evaluation: object
    profile: Path | None
    model_inputs: ModelInputsChoice | None


@dataclass(frozen=True)
class Subject:
    """An opened model: how to run it, read its data, write it and read it back."""

    source: Source
    read: Callable[[object], ModelInputs]
    outputs: Outputs
    saved: Saved
    batches: BatchSizes
    """How many rows of samples make a call, and the fewest that the model takes."""


def quantize(  # noqa: PLR0913 - the public API: every option is a keyword
    model: Model,
    calibration_data: object = None,
    *,
    layer_types: Types | None = None,
    skip_layers: Types | None = None,
    include: Iterable[str] | None = None,
    exclude: Iterable[str] | None = None,
    recipe: Recipe | Mapping[str, object] | str = "int8-static",
    on_failure: Literal["error", "warn", "ignore"] | None = None,
    evaluation_data: object = None,
    model_inputs: ModelInputsChoice | None = None,
    profile: str | Path | None = None,
    export: bool = True,
    progress: PhaseCallback | Literal[False] | None = None,
) -> QuantizedModel:
    """Quantize a module, an exported program or a `.pt2` file; the given model is not changed.

    `calibration_data`, `evaluation_data`: a list, a generator or a DataLoader, whose items are calls of the model (a
    tensor, a tuple or a dict of tensors) and are read once; or samples as rows: a tensor, an array, a dict of tensors
    or a Dataset. Of `(inputs, labels)` and of dicts with further keys the model gets what it takes, and labels serve
    metrics; `model_inputs` says it in other cases: names or positions, or a function of the item.

    `recipe`: a Recipe, a dict or a preset's name; the lists and `on_failure` replace its fields. `profile`: a file of
    statistics that replaces the calibration pass if it was made from the same model and samples; it is created if it
    doesn't exist. `progress`: None shows a bar on a terminal or in a notebook if the work takes longer than two
    seconds, False shows nothing, a callable gets (phase, done, total) at every step. `export`: whether a module is
    also written as an exported program, `model.pt2`, which `load` opens without its class, where torch.export takes it.

    With the recipe's mode "recommend" the result is a Plan: a report and a recipe, but no model.

    Raises QuantizationError with a stable `code`: InvalidModel, InvalidSamples, InvalidProfile, InvalidRecipe,
    Unsupported, ModelFailed, or ValidationFailed (whose `report` is the Report) when a check fails or the target is
    missed, and `on_failure` is "error"; "warn" gives a QuantizationWarning instead, "ignore" nothing.
    """
    wishes = resolve(
        recipe,
        on_failure,
        {"layer_types": layer_types, "skip_layers": skip_layers, "include": include, "exclude": exclude},
    )
    folder = Path(mkdtemp(prefix="zeropoint-"))
    try:
        with shown(progress) as emit, torch.random.fork_rng(devices=[]):
            torch.manual_seed(wishes.seed)
            place = None if profile is None else Path(profile)
            data = Data(calibration_data, evaluation_data, place, model_inputs)
            report, module, no_program = _quantize(model, data, wishes, folder, emit, export=export)
        conclude(report)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    if module is None:
        shutil.rmtree(folder, ignore_errors=True)
        return Plan(report)
    result = QuantizedModel(report, module, saved_files(folder), no_program)
    weakref.finalize(result, shutil.rmtree, folder, ignore_errors=True)
    return result


def _quantize(
    model: Model, data: Data, recipe: Recipe, folder: Path, emit: Callable[[Progress], None], *, export: bool
) -> tuple[Report, nn.Module | None, str]:
    """Load, calibrate, quantize, save into `folder`, validate what was saved, and open it; a plan has no module.

    The text says why a module has no program.
    """
    no_program = ""
    clock = Clock(emit)
    clock.report("loading", 0, 1)
    with ExitStack() as opened:
        subject = opened.enter_context(_subject(model, recipe, folder, data.model_inputs))
        calibration, evaluation = _samples(subject, recipe, data)
        if isinstance(model, nn.Module):
            chosen = _as_it_is_best(subject, recipe, folder, (calibration, evaluation), opened, export=export)
            subject, calibration, evaluation = chosen
        work = Work(
            source=subject.source,
            recipe=recipe,
            samples=calibration,
            evaluation=evaluation,
            folder=folder,
            outputs=subject.outputs,
            saved=subject.saved,
            clock=clock,
            profile=_places(data.profile),
        )
        report = steps.run(work)
        if recipe.mode == "recommend":
            return report, None, ""
        is_module = isinstance(subject.source, ModuleSource)
        module = open_module(saved_files(folder), subject.source.module if is_module else None)
        if is_module:
            report, no_program = _with_program(subject, calibration, folder, report, export=export)
    drop_unwanted(folder, subject.outputs.written, subject.outputs.wanted)
    (folder / REPORT_FILE).write_text(report.model_dump_json(indent=1))
    return report, module, no_program


def _as_it_is_best(
    subject: Subject, recipe: Recipe, folder: Path, data: Read, opened: ExitStack, *, export: bool
) -> tuple[Subject, CallDataset | None, IterableBatches | None]:
    """Return a module and its samples, or its program and the same samples if that quantizes more.

    `opened`: closes what the program needs.

    Raises Unsupported on a single layer without a program.
    """
    source, (calibration, evaluation) = subject.source, data
    assert isinstance(source, ModuleSource)
    calls = () if calibration is None else calibration.calls
    if calls:
        source = without_shared_weights(source, example_of(calls[0]))
    found = program_in_place(source, recipe, calls) if export else None
    if found is None or calibration is None:
        require_named(source.module)
        return replace(subject, source=source), calibration, evaluation
    outputs = Outputs.of(recipe, "pt2")
    batches = BatchSizes(*batch_sizes(found.source.inputs, recipe.calibration.batch_size))
    saved = opened.enter_context(second_process(folder))
    calibration = replace(calibration, calls=tuple(map(found.call, calls)), smallest_batch=batches.smallest)
    evaluation = None if evaluation is None else evaluation.changed(found.call)
    return Subject(found.source, subject.read, outputs, saved, batches), calibration, evaluation


def _with_program(
    subject: Subject, calibration: CallDataset | None, folder: Path, report: Report, *, export: bool
) -> tuple[Report, str]:
    """Write a module's program if it has one; return the report with it, or the reason why there is none."""
    source, saved = subject.source, subject.saved
    assert isinstance(source, ModuleSource)
    assert isinstance(saved, ReopenedModule)
    if not export or saved.module is None or report.verdict == "failed":
        return report, "" if export else "it was not asked for (export=False)"
    calls = () if calibration is None else calibration.calls
    reason = add_program(Exportable(source, saved.module, calls), folder, report)
    if reason:
        return report, reason
    entry = Loaded(name=PROGRAM_FILE, loader="torch.export.load", version=str(torch.__version__))
    rows = [*report.runtimes, *([not_compiled(torch_level())] if report.runtimes else [])]
    return report.model_copy(update={"loaded": [*report.loaded, entry], "runtimes": rows}), ""


def _places(profile: Path | None) -> ProfilePlaces:
    """Return the profile file as one to read if it exists, else as one to write. Raises InvalidProfile."""
    if profile is None:
        return ProfilePlaces()
    if profile.exists():
        return ProfilePlaces(load=profile)
    if not profile.parent.is_dir():
        raise InvalidProfile("profile_invalid", "The folder of the profile does not exist.", "Make it first.")
    return ProfilePlaces(save=profile)


@contextmanager
def _subject(model: Model, recipe: Recipe, folder: Path, choice: ModelInputsChoice | None) -> Iterator[Subject]:
    """Open the model. Raises InvalidModel, InvalidRecipe or Unsupported."""
    if isinstance(model, nn.Module):
        _require_module_recipe(recipe)
        source = module_source(model)
        outputs = Outputs(MODULE_FORMATS, MODULE_FORMATS)
        batches = BatchSizes(recipe.calibration.batch_size or DEFAULT_BATCH_SIZE)
        reader = reader_for_module(model, choice)
        yield Subject(source, reader, outputs, ReopenedModule(source.module, source.device), batches)
        return
    if not isinstance(model, ExportedProgram | str | Path):
        raise Unsupported(
            "model_format_unsupported",
            f"Objects of the type {type(model).__name__} are no models.",
            "Give an nn.Module, a torch.export.ExportedProgram or the path of a .pt2 file. "
            "A state dict is loaded into its module first.",
        )
    require_fit(recipe, "pt2")
    with second_process(folder) as saved:
        if isinstance(model, ExportedProgram):
            device = next((tensor.device.type for tensor in model.state_dict.values()), "cpu")
            program = program_source(model, device, fold=recipe.folds, merge_lora=recipe.merge_lora)
        else:
            program = open_uploaded_program(Path(model), "cpu", fold=recipe.folds, merge_lora=recipe.merge_lora)
        outputs = Outputs.of(recipe, "pt2")
        require_writers(program, outputs.written)
        batches = BatchSizes(*batch_sizes(program.inputs, recipe.calibration.batch_size))
        yield Subject(program, reader_for(program.inputs, choice), outputs, saved, batches)


def _require_module_recipe(recipe: Recipe) -> None:
    """Raise InvalidRecipe for a wish that only a program can fulfil."""
    written = {"safetensors", "pt2"}
    others = sorted(set(recipe.formats or ()) - written)
    wishes = {
        "/formats": f"{others[0]} is written" if others else "",
        "/merge_lora": "adapters are merged" if recipe.merge_lora else "",
    }
    for pointer, what in ((pointer, what) for pointer, what in wishes.items() if what):
        raise InvalidRecipe(
            "recipe_does_not_fit",
            f"{pointer}: {what} for programs alone, and the model is a module.",
            "Export it with torch.export.export, and quantize the program.",
        )


def _samples(subject: Subject, recipe: Recipe, data: Data) -> tuple[CallDataset | None, IterableBatches | None]:
    """Read as many calibration samples as the plan can use, and open the evaluation samples, possibly as a stream."""
    calibration = evaluation = None
    if data.calibration is not None:
        smallest = subject.batches.smallest
        most = most_samples(recipe, smallest, keep_out=data.evaluation is None)
        calibration = read_calls(items_of(data.calibration, subject.batches), subject.read, most, smallest)
    if data.evaluation is not None:
        evaluation = IterableBatches(items_of(data.evaluation, subject.batches), subject.read)
        if recipe.target is not None:  # a search measures on it repeatedly
            evaluation = evaluation.kept()
    return calibration, evaluation
