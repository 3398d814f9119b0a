"""A job whose process is killed goes on from its checkpoints, and ends as if nothing had happened."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sandbox.policy import Sandbox
from tests.networks import BATCH, Example
from worker.child.template import Template
from zeropoint.schema.job import (
    CHECKPOINT_FOLDER,
    EXIT_OK,
    JOB_FILE,
    OUT_FOLDER,
    PROFILE_FILE,
    REPORT_FILE,
    JobSpec,
    Phase,
    Progress,
)
from zeropoint.schema.report import Report

pytestmark = pytest.mark.slow

LAYERS = 10
SAMPLES = 24
RECIPE = {"calibration": {"batch_size": 1, "samples": SAMPLES}, "weights": {"observer": {"kind": "mse"}}}


class Deep(nn.Module):
    """Enough layers to die among them, a buffer that every call changes, and dropout that was left on."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(32, 32) for _ in range(LAYERS)))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        output: Tensor = self.layers(nn.functional.dropout(x, 0.1, training=True) * self.calls)
        return output


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    torch.manual_seed(0)
    example = Example(Deep(), (torch.randn(2, 32),), {"x": {0: BATCH}}, {"x": torch.randn(SAMPLES + 4, 32)})
    example.export(folder / "model.pt2")
    example.save_dataset(folder / "dataset.safetensors")
    return folder


Attempt = Callable[..., list[Progress]]


@pytest.fixture(scope="module")
def attempt(inputs: Path) -> Iterator[Attempt]:
    """Run a job in a process that is forked as a worker's are, to its end or until it is killed; what it said."""
    template = Template("job")

    def run(folder: Path, dies_at: tuple[Phase, int] | None = None, **wishes: object) -> list[Progress]:
        folder.mkdir(exist_ok=True)
        for path in inputs.iterdir():
            shutil.copy(path, folder)
        spec = {"model": "model.pt2", "dataset": "dataset.safetensors", "recipe": RECIPE, "checkpoint_key": "key"}
        (folder / JOB_FILE).write_text(
            JobSpec.model_validate({**spec, "checkpoint_seconds": 0.0, **wishes}).model_dump_json()
        )
        said: list[Progress] = []
        with template.fork(folder, Sandbox()) as child:
            child.go()
            while not child.ended:
                said += [Progress.model_validate_json(line) for line in child.read(0.1)]
                if any((step.phase, step.done) == dies_at for step in said):
                    os.kill(child.pid, signal.SIGKILL)
                    return said
            assert child.stop() == EXIT_OK, child.last_words
        return said

    yield run
    template.close()


def steps(said: Sequence[Progress], phase: Phase) -> list[int]:
    """The steps that were done of a phase, without its beginning."""
    return [step.done for step in said if step.phase == phase and step.done]


def artifacts(folder: Path) -> dict[str, bytes]:
    files = [folder / OUT_FOLDER / "model.safetensors", folder / OUT_FOLDER / "model.pt2", folder / PROFILE_FILE]
    return {path.name: path.read_bytes() for path in files if path.exists()}


def report(folder: Path) -> Report:
    return Report.model_validate_json((folder / OUT_FOLDER / REPORT_FILE).read_bytes())


@pytest.fixture(scope="module")
def whole(attempt: Attempt, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same job without an interruption, and without checkpoints."""
    folder = tmp_path_factory.mktemp("whole") / "job"
    said = attempt(folder, checkpoint_key=None, keep_profile=True)
    assert steps(said, "calibrating") == list(range(1, SAMPLES + 1))
    assert steps(said, "quantizing") == list(range(1, LAYERS + 1))
    assert not (folder / CHECKPOINT_FOLDER).exists()
    return folder


def test_a_job_that_is_killed_in_each_phase_goes_on_and_leaves_the_same_files(
    tmp_path: Path, attempt: Attempt, whole: Path
) -> None:
    deaths: list[tuple[Phase, int] | None] = [("calibrating", 8), ("quantizing", 5), ("saving", 1), None]
    said = [attempt(tmp_path / "job", dies_at, keep_profile=True) for dies_at in deaths]
    phases: list[tuple[Phase, int]] = [("calibrating", SAMPLES), ("quantizing", LAYERS)]
    for phase, total in phases:
        reached = 0
        for numbers in [steps(one, phase) for one in said]:  # a step that nobody heard of may have been done too
            if numbers:
                assert numbers == list(range(numbers[0], numbers[-1] + 1))
                assert numbers[0] >= max(reached, 1)
                reached = numbers[-1]
        assert reached == total
    assert steps(said[1], "calibrating")[0] >= 8
    assert steps(said[2], "quantizing")[0] >= 5
    assert [steps(one, "calibrating") for one in said[2:]] == [[SAMPLES]] * 2  # it reads what it knows
    assert artifacts(tmp_path / "job") == artifacts(whole)
    assert len(artifacts(whole)) == 3
    told, expected = report(tmp_path / "job"), report(whole)
    assert told.resumed == ["calibrating", "quantizing"]
    assert (told.calibration, told.layers) == (expected.calibration, expected.layers)
    assert (told.calibration.passes, told.calibration.reused) == (1, False)


def test_checkpoints_of_another_job_and_damaged_ones_cost_time_alone(
    tmp_path: Path, attempt: Attempt, whole: Path
) -> None:
    attempt(tmp_path / "job", ("quantizing", 5), keep_profile=True)
    (tmp_path / "job" / CHECKPOINT_FOLDER / "layers-0002.safetensors").write_bytes(b"damaged")
    (tmp_path / "job" / CHECKPOINT_FOLDER / "calibrating.safetensors").write_bytes(b"damaged")
    after = attempt(tmp_path / "job", checkpoint_seconds=3600.0, keep_profile=True)
    assert steps(after, "calibrating") == list(range(1, SAMPLES + 1))
    assert steps(after, "quantizing")[0] >= 4
    assert artifacts(tmp_path / "job") == artifacts(whole)
    after = attempt(tmp_path / "job", checkpoint_key="another", checkpoint_seconds=3600.0, keep_profile=True)
    assert steps(after, "quantizing") == list(range(1, LAYERS + 1))
    assert artifacts(tmp_path / "job") == artifacts(whole)
    assert report(tmp_path / "job").resumed == []
