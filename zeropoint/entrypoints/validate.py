"""Separate validation: `python -m zeropoint validate FOLDER [--dataset FILE] [--model FLOAT.pt2]`.

The files of a saved folder are enough to check that they open, agree with each other, hold valid values and are small.
With the float program that they came from, the rounding error of each weight is measured too; with samples as well,
SQNR, cosine and saturation, which gives the whole report.
"""

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from zeropoint.data.dataset import open_dataset
from zeropoint.engine.plan import EvaluationSamples, choose_evaluation
from zeropoint.entrypoints.clock import Clock
from zeropoint.entrypoints.failures import model_errors
from zeropoint.entrypoints.steps import validate_saved
from zeropoint.errors import InvalidModel, QuantizationError
from zeropoint.formats import TORCH_CHECKPOINT_FILE, WRITERS
from zeropoint.loading.in_process import require_same
from zeropoint.loading.loadback import LoadbackClient, second_process
from zeropoint.loading.restore import restore
from zeropoint.loading.stored import Stored, read_safetensors, read_torch_checkpoint
from zeropoint.model.layer import distinct_bytes
from zeropoint.primitives.qparams import QParams
from zeropoint.schema.checkpoint_files import CONFIG_FILE
from zeropoint.schema.formats import PROGRAM_FILE, SAFETENSORS_FILE
from zeropoint.schema.job import COMPILE_SECONDS, EXIT_FAILED, EXIT_OK, EXIT_USAGE, missing_path
from zeropoint.schema.report import Check, EvaluationReport, Part, Report, Verdict
from zeropoint.sources.program import open_uploaded_program
from zeropoint.validation.checks import verdict
from zeropoint.validation.compiling import Wish
from zeropoint.validation.report import build_report


class Findings(Part):
    """The result of validation: the verdict and checks, and the whole report if a float model was given."""

    verdict: Verdict
    checks: list[Check]
    report: Report | None = None


@dataclass(frozen=True)
class Reference:
    """The float program to compare with, and samples for both."""

    model: Path
    dataset: Path | None = None


def validate(folder: Path, comparison: Reference | None = None) -> Findings:
    """Run every check that the given files allow. Raises InvalidModel, InvalidSamples or Unsupported."""
    if not (folder / SAFETENSORS_FILE).exists():
        raise InvalidModel(
            "saved_model_missing", f"The folder has no {SAFETENSORS_FILE}.", "Give the folder of a quantized model."
        )
    stored = read_safetensors(folder / SAFETENSORS_FILE)
    settings = stored.recipe.validation
    with TemporaryDirectory() as scratch, second_process(Path(scratch)) as reader:
        opened = _opens(folder, stored, reader)
        if comparison is not None:
            report = _compare(stored, comparison, reader, folder, opened=opened)
            return Findings(verdict=report.verdict, checks=report.checks, report=report)
    checks = [_size_check(stored), _load_check(opened), _range_check(stored)]
    return Findings(verdict=verdict(checks, settings, EvaluationReport(source="none", samples=0)), checks=checks)


def _opens(folder: Path, stored: Stored, reader: LoadbackClient) -> bool:
    """Return whether the other files of the folder open and hold the same tensors."""
    if ((folder / PROGRAM_FILE).exists() or _holds_weights_alone(folder)) and not reader.open(folder):
        return False
    if (folder / TORCH_CHECKPOINT_FILE).exists():
        try:
            require_same(stored, read_torch_checkpoint(folder / TORCH_CHECKPOINT_FILE))
        except (ValueError, InvalidModel) as error:
            print(error, file=sys.stderr)  # noqa: T201 - for operators, as the second process does
            return False
    return True


def _holds_weights_alone(folder: Path) -> bool:
    return not any((folder / name).exists() for name in (PROGRAM_FILE, TORCH_CHECKPOINT_FILE, CONFIG_FILE))


def _compare(stored: Stored, comparison: Reference, reader: LoadbackClient, folder: Path, *, opened: bool) -> Report:
    clock = Clock(lambda _: None)
    recipe = stored.recipe
    source = open_uploaded_program(comparison.model, "cpu", fold=recipe.folds, merge_lora=recipe.merge_lora)
    quantized = restore(source, stored)
    evaluation = EvaluationSamples()
    if comparison.dataset is not None and (folder / PROGRAM_FILE).exists():
        batch_size = quantized.recipe.calibration.batch_size
        evaluation = choose_evaluation(open_dataset(comparison.dataset, source.inputs, batch_size), None, None)
        clock.report("validating", 0, 1)
    formats = [name for name, writer in WRITERS.items() if (folder / writer.file).is_file()]
    wish = Wish.of(quantized, formats, COMPILE_SECONDS)
    with model_errors(source, lambda: clock.phase):
        validated = validate_saved(quantized, evaluation, reader, clock, wish, folder=folder if opened else None)
    return build_report(quantized, validated, clock.effort())


def _size_check(stored: Stored) -> Check:
    size, original = distinct_bytes(stored.tensors.values()), int(stored.about["statistics"]["original_bytes"])
    bound = stored.recipe.validation.max_size_ratio
    passed = size < original if bound is None else size <= bound * original
    return Check(name="size", passed=passed, value=size / original, bound=bound, detail=f"{size} of {original} bytes.")


def _load_check(opened: bool) -> Check:
    detail = "The saved files open and agree." if opened else "The saved files don't open, or don't agree."
    return Check(name="load_and_run", passed=opened, detail=detail)


def _range_check(stored: Stored) -> Check:
    faults = [fault for name in stored.layers for fault in _faults(stored, name)]
    detail = faults[0] if faults else f"Integers and scales of {len(stored.layers)} layers are valid."
    return Check(name="weight_range", passed=not faults, detail=detail)


def _faults(stored: Stored, layer: str) -> list[str]:
    """Return what is wrong with a layer's quantized values and qparams."""
    numbers, qparams = stored.weight(layer)
    shape = stored.layers[layer]["weight"]["shape"]
    faults = []
    layout = stored.layout(layer)
    found = list(numbers.shape)[::-1] if stored.transposed(layer) else list(numbers.shape)
    if layout is not None:
        found = list(layout.stored(numbers).shape)
    if found != shape:
        faults.append(f"Layer {layer!r}: shape {found}, its metadata says {shape}.")
    values = numbers.to(torch.float32)
    low, high = (
        (-math.inf, math.inf) if qparams is None else (qparams.quant_type.quant_min, qparams.quant_type.quant_max)
    )
    if not bool((torch.isfinite(values) & (values >= low) & (values <= high)).all()):
        faults.append(f"Layer {layer!r}: numbers outside {low}..{high}.")
    checked = [params for params in (qparams, stored.input(layer)) if params is not None]
    faults += [f"Layer {layer!r}: a scale or zero point is not valid." for params in checked if not _valid(params)]
    factors = stored.correction(layer, "pre_quant_scale")
    if factors is not None and not bool((torch.isfinite(factors) & (factors > 0)).all()):
        faults.append(f"Layer {layer!r}: a factor of its input is not valid.")
    return faults


def _valid(qparams: QParams) -> bool:
    quant_type, zero = qparams.quant_type, qparams.zero_point
    inside = (zero >= quant_type.quant_min) & (zero <= quant_type.quant_max)
    return bool((torch.isfinite(qparams.scale) & (qparams.scale > 0)).all() & inside.all())


def run_by_hand(folder: Path, model: Path | None, dataset: Path | None) -> int:
    """Print the findings as JSON; return 0 when every check passed, 1 when one failed or could not be run.

    Returns 2 when a path does not exist.
    """
    if missing := missing_path(folder, model, dataset):
        print(missing, file=sys.stderr)  # noqa: T201 - a program speaks
        return EXIT_USAGE
    try:
        findings = validate(folder, None if model is None else Reference(model, dataset))
    except QuantizationError as error:
        print(f"{error.title}: {error}", file=sys.stderr)  # noqa: T201 - a program speaks
        return EXIT_FAILED
    print(findings.model_dump_json(indent=1))  # noqa: T201 - a program speaks
    return EXIT_OK if all(check.passed for check in findings.checks) else EXIT_FAILED
