"""The child program by hand: a folder in, a folder out, and every ending it can have."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.job_program import run_job
from tests.networks import Example, attention, audio, convolutional, counting
from zeropoint.entrypoints.job import run_by_hand
from zeropoint.schema.job import (
    ERROR_FILE,
    EXIT_FAILED,
    EXIT_OK,
    EXIT_USAGE,
    OUT_FOLDER,
    REPORT_FILE,
    Failure,
    JobSpec,
    Progress,
)
from zeropoint.schema.report import Report


def prepare(folder: Path, example: Example, *, evaluation: int = 0, dataset: bool = True, **recipe: object) -> None:
    """Write a job folder."""
    example.export(folder / "model.pt2")
    if dataset:
        example.save_dataset(folder / "dataset.safetensors")
    if evaluation:
        save_file({k: v[:evaluation].clone() for k, v in example.dataset.items()}, folder / "evaluation.safetensors")
    spec = {
        "model": "model.pt2",
        "dataset": "dataset.safetensors" if dataset else None,
        "evaluation_dataset": "evaluation.safetensors" if evaluation else None,
        "recipe": recipe,
    }
    (folder / "job.json").write_text(JobSpec.model_validate(spec).model_dump_json())


def run(folder: Path, example: Example, *, evaluation: int = 0, dataset: bool = True, **recipe: object) -> int:
    """Write a job folder and run the program on it."""
    prepare(folder, example, evaluation=evaluation, dataset=dataset, **recipe)
    return run_job(folder)


def in_its_own_process(folder: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "zeropoint", "job", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def report(folder: Path) -> Report:
    return Report.model_validate_json((folder / OUT_FOLDER / REPORT_FILE).read_bytes())


def failure(folder: Path) -> Failure:
    return Failure.model_validate_json((folder / OUT_FOLDER / ERROR_FILE).read_bytes())


def test_a_job_leaves_both_artifacts_and_an_honest_report(tmp_path: Path) -> None:
    assert run(tmp_path, convolutional(), evaluation=20) == EXIT_OK
    told = report(tmp_path)
    assert told.verdict == "passed"
    assert {check.name: check.passed for check in told.checks} == dict.fromkeys(
        ["sqnr", "size", "load_and_run", "weight_range"], True
    )
    assert told.summary.sqnr_db is not None
    assert told.summary.sqnr_db > 30
    assert sorted(layer.name for layer in told.layers) == ["features.0", "features.3", "head"]
    assert all(layer.output_sqnr_db and layer.output_sqnr_db > 30 for layer in told.layers)
    assert (told.evaluation.source, told.evaluation.samples) == ("evaluation_dataset", 20)
    assert set(told.timings) == {"loading", "calibrating", "quantizing", "saving", "validating"}
    files = {path.name for path in (tmp_path / OUT_FOLDER).iterdir()}
    assert files == {"model.safetensors", "model.pt2", REPORT_FILE}


def test_labels_in_one_file_make_metrics_and_are_not_fed_to_the_model(tmp_path: Path) -> None:
    example = convolutional()
    with torch.no_grad():
        scores = example.module.eval()(example.dataset["x"])
    classes = scores.argmax(-1)
    classes[30:32] = (classes[30:32] + 1) % scores.shape[-1]
    labelled = replace(example, dataset={**example.dataset, "labels": classes, "references": -scores})
    assert run(tmp_path, labelled) == EXIT_OK
    found = {metric.name: metric for metric in report(tmp_path).metrics}
    assert set(found) == {"top1", "top5", "agreement", "cosine"}
    assert (found["top1"].float_value, found["agreement"].float_value) == (0.8, 1.0)
    assert found["cosine"].float_value == pytest.approx(-1)
    assert found["agreement"].value is not None
    assert found["agreement"].value >= 0.9


def test_labels_that_do_not_fit_are_refused_before_the_work(tmp_path: Path) -> None:
    example = convolutional()
    labelled = replace(example, dataset={**example.dataset, "labels": torch.full((40,), 1000)})
    assert run(tmp_path, labelled) == EXIT_FAILED
    assert (failure(tmp_path).code, failure(tmp_path).phase) == ("dataset_does_not_fit", "loading")
    assert "1000" in failure(tmp_path).detail


def test_standard_output_is_progress_and_nothing_else(tmp_path: Path) -> None:
    prepare(tmp_path, convolutional())
    done = in_its_own_process(tmp_path)
    assert done.returncode == EXIT_OK
    steps = [Progress.model_validate_json(line) for line in done.stdout.splitlines()]
    assert list(dict.fromkeys(step.phase for step in steps)) == [
        "loading",
        "calibrating",
        "quantizing",
        "saving",
        "validating",
    ]
    last = {step.phase: step for step in steps}
    assert all(step.done == step.total > 0 for step in last.values())


def test_a_quarter_of_a_small_dataset_stays_out_of_calibration(tmp_path: Path) -> None:
    run(tmp_path, convolutional(samples=40))
    told = report(tmp_path)
    assert (told.calibration.samples, told.evaluation.source, told.evaluation.samples) == (30, "held_out", 10)


def test_the_same_job_twice_gives_the_same_safetensors(tmp_path: Path) -> None:
    stored = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        run(tmp_path / name, convolutional())
        stored.append((tmp_path / name / OUT_FOLDER / "model.safetensors").read_bytes())
    assert stored[0] == stored[1]


@pytest.mark.parametrize("make", [audio, attention, counting], ids=lambda make: make.__name__)
def test_other_shapes_of_model_pass_too(tmp_path: Path, make: object) -> None:
    assert run(tmp_path, make()) == EXIT_OK  # type: ignore[operator]
    told = report(tmp_path)
    assert all(check.passed for check in told.checks)
    assert {warning.code for warning in told.warnings} <= {"left_in_float"}  # a head that shares the embedding


@pytest.mark.parametrize(
    ("on_failure", "code", "verdict"),
    [("error", EXIT_FAILED, "failed"), ("warn", EXIT_OK, "warned"), ("ignore", 0, "failed")],
)
def test_on_failure_decides_what_a_failed_check_does(tmp_path: Path, on_failure: str, code: int, verdict: str) -> None:
    bounds = {"on_failure": on_failure, "min_sqnr_db": 200}
    assert run(tmp_path, convolutional(), validation=bounds) == code
    told = report(tmp_path)
    assert told.verdict == verdict
    assert [check.name for check in told.checks if not check.passed] == ["sqnr"]
    if on_failure == "error":
        assert failure(tmp_path).code == "validation_failed"
        assert "at least 200 dB" in failure(tmp_path).detail


def test_a_size_bound_that_is_not_met_fails_its_check(tmp_path: Path) -> None:
    run(tmp_path, convolutional(), validation={"on_failure": "warn", "max_size_ratio": 0.1})
    assert [check.name for check in report(tmp_path).checks if not check.passed] == ["size"]


def test_formats_choose_what_stays_and_validation_runs_all_the_same(tmp_path: Path) -> None:
    assert run(tmp_path, convolutional(), formats=["safetensors"]) == EXIT_OK
    assert {path.name for path in (tmp_path / OUT_FOLDER).iterdir()} == {"model.safetensors", REPORT_FILE}
    assert report(tmp_path).summary.sqnr_db is not None


def test_weight_only_without_samples_is_not_evaluated(tmp_path: Path) -> None:
    assert run(tmp_path, convolutional(), dataset=False, activations=None) == EXIT_OK
    told = report(tmp_path)
    assert (told.verdict, told.summary.sqnr_db, told.evaluation.source) == ("not_evaluated", None, "none")


def test_static_activations_without_samples_are_refused(tmp_path: Path) -> None:
    assert run(tmp_path, convolutional(), dataset=False) == EXIT_FAILED
    assert failure(tmp_path).code == "dataset_required"


def test_a_refusal_names_the_phase_and_keeps_quiet_about_the_machine(tmp_path: Path) -> None:
    example = convolutional()
    example.dataset["x"][3, 0, 0, 0] = float("nan")
    assert run(tmp_path, example) == EXIT_FAILED
    told = failure(tmp_path)
    assert (told.code, told.phase) == ("non_finite_samples", "calibrating")
    assert str(tmp_path) not in told.model_dump_json()


def test_a_file_that_can_not_grow_is_told_as_such(tmp_path: Path) -> None:
    prepare(tmp_path, convolutional())
    limited = f"ulimit -f 1; exec {sys.executable} -m zeropoint job {tmp_path}"
    done = subprocess.run(["bash", "-c", limited], capture_output=True, text=True, check=False)
    assert done.returncode == EXIT_FAILED, done.stderr
    assert failure(tmp_path).code == "disk_limit", done.stderr


class Exploding(torch.nn.Module):
    """Finite on paper, infinite on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(4, 4)
        self.second = torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.second(torch.exp(self.first(x) * 1e4))
        return output


def test_an_activation_that_explodes_is_refused_with_the_layers_name(tmp_path: Path) -> None:
    example = Example(Exploding(), (torch.randn(2, 4),), None, {"x": torch.randn(8, 4)})
    assert run(tmp_path, example) == EXIT_FAILED
    assert failure(tmp_path).code == "non_finite_activations"
    assert "'second'" in failure(tmp_path).detail


def test_an_error_that_nobody_foresaw_is_told_to_the_operator_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(tmp_path, convolutional())
    (tmp_path / OUT_FOLDER).mkdir()
    (tmp_path / OUT_FOLDER / "model.safetensors").mkdir()  # a file can't be written there
    assert run_job(tmp_path) == EXIT_FAILED
    assert "Traceback" in capsys.readouterr().err
    assert failure(tmp_path).code == "internal_error"
    assert str(tmp_path) not in failure(tmp_path).model_dump_json()


GOOD = {"model": "model.pt2", "format": "pt2"}
RECIPES = {
    "/recipe/weights/dtype": {"weights": {"dtype": "int7"}},
    "/recipe/observer": {"observer": "minmax"},
    "/recipe/algorithms/0": {"algorithms": [{"kind": "magic"}]},
    "/recipe/algorithms/0/smoothing/alpha": {"algorithms": [{"kind": "smoothing", "alpha": 7}]},
    "/recipe/validation/min_sqnr_db": {"validation": {"min_sqnr_db": "high"}},
    "/recipe/exclude": {"exclude": "head"},
    "/recipe/overrides/0/names": {"overrides": [{}]},
    "/recipe": [],
}


@pytest.mark.parametrize("pointer", RECIPES)
@pytest.mark.parametrize("place", ["recipe", "sweep"])
def test_a_recipe_that_does_not_validate_is_refused_with_its_pointer(tmp_path: Path, pointer: str, place: str) -> None:
    wish = {"recipe": RECIPES[pointer]} if place == "recipe" else {"sweep": [{"name": "a", "recipe": RECIPES[pointer]}]}
    (tmp_path / "job.json").write_text(json.dumps({**GOOD, **wish}))
    assert run_job(tmp_path) == EXIT_FAILED
    told = failure(tmp_path)
    assert told.code == "recipe_invalid"
    assert told.detail.startswith(pointer.replace("/recipe", "/recipe" if place == "recipe" else "/sweep/0/recipe"))
    assert "Input should" not in told.detail


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("", "JSON"),
        ("{", "JSON"),
        ("[]", "must be an object"),
        ("null", "must be an object"),
        ("{}", "/model is missing"),
        ('{"model": "model.pt2", "surprise": 1}', "/surprise is not a known key"),
        ('{"model": "model.pt2", "device": "tpu"}', "/device must be"),
        ('{"model": "model.pt2", "checkpoint_seconds": "soon"}', "/checkpoint_seconds must be"),
        ('{"model": "elsewhere.pt2"}', "'elsewhere.pt2'"),
        ('{"model": "job.json", "dataset": "none.safetensors"}', "'none.safetensors'"),
        (None, "job.json"),
    ],
)
def test_a_job_file_that_is_not_valid_is_refused_with_the_place(
    tmp_path: Path, content: str | None, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "job.json").write_text(content)
    assert run_job(tmp_path) == EXIT_FAILED
    told = failure(tmp_path)
    assert (told.code, told.phase) == ("job_invalid", "loading")
    assert named in told.detail
    assert "Traceback" not in capsys.readouterr().err


def test_a_folder_that_is_not_there_gives_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    for path, sentence in ((tmp_path / "none", "There is no folder"), (tmp_path / "file", "is not a folder")):
        assert run_by_hand(path) == EXIT_USAGE
        printed = capsys.readouterr()
        assert sentence in printed.err
        assert "Traceback" not in printed.err
        assert printed.out == ""
