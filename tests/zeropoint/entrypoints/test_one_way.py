"""A job on disk and `quantize` in memory do the same: one report, the same bytes, and profiles that serve both."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.job_program import run_job
from tests.networks import Example, convolutional, prenorm
from zeropoint import QuantizedModel, quantize
from zeropoint.schema.job import EXIT_OK, JOB_FILE, OUT_FOLDER, PROFILE_FILE, REPORT_FILE, JobSpec
from zeropoint.schema.recipe import Recipe
from zeropoint.schema.report import Report

BATCH = 8
RECIPES: dict[str, dict[str, object]] = {
    "static": {},
    "weight-only": {"activations": None},
    "algorithms": {
        "algorithms": [{"kind": "mse_clipping"}, {"kind": "smoothing"}, {"kind": "gptq"}, {"kind": "bias_correction"}],
        "sensitivity": True,
    },
    "target": {"target": {"max_drop": {"metric": "agreement", "value": 0.2}}},
}


def calls(example: Example, size: int = BATCH) -> list[tuple[Tensor, ...]]:
    return list(zip(*(torch.split(tensor, size) for tensor in example.dataset.values()), strict=True))


def do_job(folder: Path, example: Example, fields: dict[str, object], **spec: object) -> Report:
    folder.mkdir(exist_ok=True)
    example.export(folder / "model.pt2")
    example.save_dataset(folder / "dataset.safetensors")
    recipe = Recipe.model_validate({**fields, "calibration": {"batch_size": BATCH}})
    job = JobSpec.model_validate({"model": "model.pt2", "dataset": "dataset.safetensors", "recipe": recipe, **spec})
    (folder / JOB_FILE).write_text(job.model_dump_json())
    assert run_job(folder) == EXIT_OK
    return Report.model_validate_json((folder / OUT_FOLDER / REPORT_FILE).read_bytes())


def do_call(example: Example, folder: Path, fields: dict[str, object], **options: object) -> QuantizedModel:
    recipe = {**fields, "calibration": {"batch_size": BATCH}}
    return quantize(folder / "model.pt2", calls(example), recipe=recipe, **options)  # type: ignore[arg-type]


def told(report: Report) -> dict[str, object]:
    """The report without what differs from run to run."""
    return report.model_dump(mode="json", exclude={"timings", "peak_memory_bytes", "loaded"})


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("name", "make"),
    [("static", convolutional), ("weight-only", prenorm), ("algorithms", prenorm), ("target", convolutional)],
    ids=list(RECIPES),
)
def test_a_job_and_a_call_give_one_report_and_the_same_bytes(
    tmp_path: Path, name: str, make: Callable[[int], Example]
) -> None:
    example = make(50)
    job = do_job(tmp_path / "job", example, RECIPES[name])
    result = do_call(example, tmp_path / "job", RECIPES[name])
    assert told(result.report) == told(job)
    assert job.evaluation.source == "held_out"
    files = {path.name for path in (tmp_path / "job" / OUT_FOLDER).iterdir()} - {REPORT_FILE}
    assert {"model.safetensors", "model.pt2"} <= files
    for file in files:
        assert (result.folder / file).read_bytes() == (tmp_path / "job" / OUT_FOLDER / file).read_bytes(), file


def test_single_samples_and_one_tensor_give_the_same_ranges() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(40, 4)
    alone, together, endless = (quantize(model, data) for data in (list(x[:, None]), [x], iter(torch.split(x, 7))))
    for other in (together, endless):
        assert other.report.calibration.samples == alone.report.calibration.samples == 30
        assert other.report.evaluation == alone.report.evaluation
        for left, right in zip(other.report.layers, alone.report.layers, strict=True):
            assert left.activation is not None
            assert right.activation is not None
            assert left.activation.minimum == pytest.approx(right.activation.minimum, rel=1e-6)
            assert left.activation.maximum == pytest.approx(right.activation.maximum, rel=1e-6)


def test_a_profile_of_a_job_serves_a_call_and_back(tmp_path: Path) -> None:
    example, own = convolutional(50), tmp_path / "profile.safetensors"
    job = do_job(tmp_path / "job", example, {}, keep_profile=True)
    result = do_call(example, tmp_path / "job", {}, profile=tmp_path / "job" / PROFILE_FILE)
    assert (job.calibration.reused, result.report.calibration.reused) == (False, True)
    do_call(example, tmp_path / "job", {}, profile=own)
    assert own.read_bytes() == (tmp_path / "job" / PROFILE_FILE).read_bytes()
    shutil.copy(own, tmp_path / "job" / "given.safetensors")
    again = do_job(tmp_path / "job", example, {}, profile="given.safetensors")
    assert again.calibration.reused
    assert again.layers == job.layers == result.report.layers
