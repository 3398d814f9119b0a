"""`model.onnx` in the second process: opened, run beside the program, and measured by itself."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from onnx import numpy_helper

from tests.job_program import shared_second_process
from tests.networks import dictionary, residual
from tests.processor import needs_exact_onnxruntime
from tests.zeropoint.conftest import PROGRAM_FORMATS, QuantizeExample, SavedResult
from zeropoint.data.dataset import open_dataset
from zeropoint.formats import write_formats
from zeropoint.loading.loadback import LoadbackClient
from zeropoint.loading.readers.onnx import _session, open_onnx
from zeropoint.model.source import ProgramSource
from zeropoint.schema.formats import ONNX_FILE
from zeropoint.schema.recipe import ValidationSettings
from zeropoint.schema.report import EvaluationReport, Report
from zeropoint.validation.evaluation import evaluate
from zeropoint.validation.report import Effort, Validated, build_report


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadbackClient]:
    """One second process for all of this file: to import torch takes it longer than to open and run a model."""
    with shared_second_process(tmp_path_factory.mktemp("exchanged")) as reader:
        yield reader


@pytest.fixture
def saved(static_residual: SavedResult, tmp_path: Path) -> SavedResult:
    """A copy to damage."""
    return SavedResult(static_residual.result, shutil.copytree(static_residual.folder, tmp_path / "saved"))


def validated(saved: SavedResult, reader: LoadbackClient) -> Report:
    """What the load-back check and the evaluation find in the folder."""
    result, folder = saved.result, saved.folder
    assert isinstance(result.source, ProgramSource)
    samples = open_dataset(folder / "dataset.safetensors", result.source.inputs, None)
    opened = reader.open(folder)
    evaluation = evaluate(result, samples, reader, lambda *_: None) if opened else None
    about = EvaluationReport(source="calibration_samples", samples=samples.count)
    return build_report(result, Validated(about, opened, evaluation, reader.loaded), Effort())


def test_the_report_says_what_opened_the_file_and_its_own_sqnr(saved: SavedResult, reader: LoadbackClient) -> None:
    report = validated(saved, reader)
    told = {entry.name: (entry.loader, entry.sqnr_db) for entry in report.loaded}
    assert told["model.pt2"] == ("torch.export.load", None)
    loader, sqnr_db = told[ONNX_FILE]
    assert loader == "onnxruntime.InferenceSession"
    assert sqnr_db is not None
    assert sqnr_db != report.summary.sqnr_db
    assert f"{ONNX_FILE}: {sqnr_db:.2f} dB" in report.checks[0].detail


def test_a_file_that_keeps_up_with_the_program_passes(saved: SavedResult, reader: LoadbackClient) -> None:
    report = validated(saved, reader)
    assert report.verdict == "passed"
    (sqnr_db,) = (entry.sqnr_db for entry in report.loaded if entry.name == ONNX_FILE)
    assert sqnr_db == pytest.approx(report.summary.sqnr_db, abs=1)
    assert f"{ONNX_FILE}: {sqnr_db:.2f} dB." in report.checks[0].detail


def test_outputs_keep_the_positions_of_the_program(
    quantized: QuantizeExample, reader: LoadbackClient, tmp_path: Path
) -> None:
    list(write_formats(quantized(dictionary(), formats=PROGRAM_FORMATS), tmp_path, PROGRAM_FORMATS))
    assert reader.open(tmp_path)
    reader.start([torch.randn(3, 4), torch.ones(3, 3)])
    outputs = reader.finish()
    assert outputs is not None
    assert sorted(outputs) == sorted(reader.further_outputs[ONNX_FILE]) == [0, 1, 3]
    beside = reader.further_outputs[ONNX_FILE]
    assert {at: found.shape for at, found in beside.items()} == {at: value.shape for at, value in outputs.items()}
    for position, expected in outputs.items():
        torch.testing.assert_close(beside[position], expected, atol=0.05, rtol=0.05)


def truncate(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def break_the_types(path: Path) -> None:
    model = onnx.load(path)
    model.graph.node[-1].op_type = "Not"
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize("damage", [truncate, break_the_types], ids=lambda damage: damage.__name__)
def test_a_file_that_does_not_open_fails_the_job(
    saved: SavedResult, reader: LoadbackClient, damage: Callable[[Path], None]
) -> None:
    damage(saved.folder / ONNX_FILE)
    report = validated(saved, reader)
    assert report.verdict == "failed"
    assert "load_and_run" in {check.name for check in report.checks if not check.passed}


def test_a_file_that_gives_another_shape_fails_the_job(saved: SavedResult, reader: LoadbackClient) -> None:
    model = onnx.load(saved.folder / ONNX_FILE)
    output = model.graph.output[0]
    model.graph.node.append(onnx.helper.make_node("Transpose", [output.name], ["turned"]))
    output.CopyFrom(onnx.helper.make_tensor_value_info("turned", onnx.TensorProto.FLOAT, [10, "n"]))
    (saved.folder / ONNX_FILE).write_bytes(model.SerializeToString())
    report = validated(saved, reader)
    assert [check.name for check in report.checks if not check.passed] == ["sqnr", "load_and_run"]


def scramble(path: Path) -> None:
    """Turn one weight around."""
    model = onnx.load(path)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "head.weight")
    weight.raw_data = numpy_helper.to_array(weight)[::-1].copy().tobytes()
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize("bound", [None, -90.0])
def test_a_file_that_falls_behind_the_program_fails_the_job(
    saved: SavedResult, reader: LoadbackClient, bound: float | None
) -> None:
    result = saved.result
    recipe = result.recipe.model_copy(update={"validation": ValidationSettings(min_sqnr_db=bound)})
    scramble(saved.folder / ONNX_FILE)
    report = validated(SavedResult(replace(result, recipe=recipe), saved.folder), reader)
    assert [check.name for check in report.checks if not check.passed] == ["sqnr"]
    assert f"{ONNX_FILE}: " in report.checks[0].detail
    assert report.checks[0].detail.endswith("too far below.")


@needs_exact_onnxruntime
def test_the_session_for_processors_that_saturate_gives_what_this_one_does(static_residual: SavedResult) -> None:
    opened = open_onnx(static_residual.folder)
    exact = replace(opened, session=_session(opened.path, exact=True))
    batch = {"images": residual().dataset["images"][:3]}
    for usual, other in zip(opened.run_as_usual(batch), exact.run(batch), strict=True):
        torch.testing.assert_close(usual, other)


TELLTALE = """
import os, sys
sys.path.insert(0, os.getcwd())
from zeropoint.loading.readers.onnx import load_runtime
assert os.environ.get("ORT_DISABLE_TELEMETRY") is None
load_runtime()
assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
"""


def test_the_runtime_does_not_report_home(tmp_path: Path) -> None:
    """Where it does, it leaves an identifier of the machine in the cache."""
    root = Path(__file__).parents[4]
    environment = {"HOME": str(tmp_path), "PATH": ""}
    subprocess.run([sys.executable, "-c", TELLTALE], check=True, cwd=root, env=environment)
    assert list(tmp_path.rglob("*onnxruntime*")) == []
