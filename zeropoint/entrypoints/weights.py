"""A job on a file of weights: without a module to run, weights stream from file to file and are compared."""

import math
from pathlib import Path

import torch

from zeropoint.engine.plan import EvaluationSamples
from zeropoint.engine.streaming import Streamed, stream
from zeropoint.entrypoints.clock import Clock
from zeropoint.errors import InvalidSamples
from zeropoint.files.checkpoints import Checkpoints
from zeropoint.files.safetensors import in_json, replace_metadata
from zeropoint.files.stream_writer import TensorWriter
from zeropoint.formats.metadata import describe, room_for_results
from zeropoint.layers.checkpoints import searched_qparams
from zeropoint.layers.selection import require_fit, select
from zeropoint.loading.loadback import LoadbackClient, Pipes, loadback_client
from zeropoint.schema.formats import SAFETENSORS_FILE
from zeropoint.schema.job import CHECKPOINT_FOLDER, OUT_FOLDER, JobSpec
from zeropoint.schema.recipe import Recipe
from zeropoint.schema.report import NOT_CALIBRATED
from zeropoint.schema.versions import versions
from zeropoint.sources.weights import WeightsSource, open_weights
from zeropoint.validation.evaluation import TensorDiff
from zeropoint.validation.report import Validated, build_report, settle


def run_weights(folder: Path, spec: JobSpec, clock: Clock, pipes: Pipes) -> None:
    """Do the steps of the job, and write its report. Raises QuantizationError."""
    out, model = folder / OUT_FOLDER, folder / spec.model
    out.mkdir(exist_ok=True)
    torch.manual_seed(spec.recipe.seed)
    checkpoints = Checkpoints(folder / CHECKPOINT_FOLDER, spec.checkpoint_key, spec.checkpoint_seconds)
    with loadback_client(folder, pipes) as reader, TensorWriter(folder) as writer:
        clock.report("loading", 0, 1)
        require_fit(spec.recipe, spec.format)
        _require_no_samples(spec)
        source = open_weights(model)
        quantized = quantize_weights(source, spec.recipe, writer, clock, checkpoints)
        clock.report("saving", 0, 1)
        writer.room = room_for_results(quantized)
        writer.finish(out / SAFETENSORS_FILE, in_json(describe(quantized, {})))
        clock.report("saving", 1, 1)
        opened = reader.open(out)
        comparison = compare(quantized, source, model, reader, clock) if opened else TensorDiff()
    validated = Validated(EvaluationSamples().report, opened=opened, measured=comparison, loaded=reader.loaded)
    report = build_report(quantized, validated, clock.effort(checkpoints.resumed))
    if opened:
        replace_metadata(out / SAFETENSORS_FILE, in_json(describe(quantized, {}, report)))
    settle(report, out)


def quantize_weights(
    source: WeightsSource, recipe: Recipe, writer: TensorWriter, clock: Clock, checkpoints: Checkpoints
) -> Streamed:
    """Append every tensor to the writer, quantized or unchanged. Raises InvalidModel or InvalidRecipe."""
    choices, skipped = select(source.layers, recipe)
    clock.report("loading", 1, 1)
    searched = searched_qparams(checkpoints, choices)
    by_weight = {str(choice.layer.weight_name): choice for choice in choices}
    layers = {
        layer.layer.name: layer
        for layer in stream(source, by_weight, writer, searched, lambda *at: clock.report("quantizing", *at))
    }
    searched.close()
    in_order = [layers[choice.layer.name] for choice in choices]
    return Streamed(source, recipe, in_order, skipped, NOT_CALIBRATED, versions(), written_bytes=writer.bytes)


def compare(
    quantized: Streamed, source: WeightsSource, model: Path, reader: LoadbackClient, clock: Clock
) -> TensorDiff:
    """Return how each saved tensor differs in the second process: a weight's SQNR must be the one measured here."""
    layers = {layer.layer.weight_name: layer for layer in quantized.layers}
    difference = TensorDiff()
    for done, name in enumerate(source.files, start=1):
        compared = reader.compare(name, model)
        layer = layers.get(name)
        if compared is None or (layer is not None and not _equal(compared["sqnr_db"], layer.weight_sqnr_db)):
            difference.unlike.append(name)
        elif layer is not None:
            difference.max_errors[layer.layer.name] = compared["move"] or 0.0
        clock.report("validating", done, len(source.files))
    return difference


def _equal(left: float | None, right: float | None) -> bool:
    """Return whether two SQNRs in dB are equal, up to the error of summing in another order."""
    if left is None or right is None:
        return left is right
    return math.isclose(left, right, rel_tol=1e-9) or (math.isnan(left) and math.isnan(right))


def _require_no_samples(spec: JobSpec) -> None:
    if spec.dataset is not None or spec.evaluation_dataset is not None:
        raise InvalidSamples(
            "dataset_does_not_fit",
            "The model is a file of weights: there is no graph that samples could run through.",
            "Leave the dataset out, or give the model as a program (.pt2).",
        )
