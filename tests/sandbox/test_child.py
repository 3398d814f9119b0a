"""A job's program gets ready before there is a job, in a folder that is renamed meanwhile."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sandbox.policy import Sandbox, command
from tests.networks import convolutional
from tests.servers import ROOT
from tests.service.processes import command_line, descendants, eventually, is_running
from worker.child.process import STDERR_FILE, Child, started
from zeropoint.loading.compiled import NO_COMPILER
from zeropoint.schema.job import EXIT_OK, GO, JOB_FILE, OUT_FOLDER, REPORT_FILE, JobSpec
from zeropoint.schema.recipe import Recipe
from zeropoint.schema.report import Report


@contextmanager
def waiting(folder: Path) -> Iterator[Child]:
    """A job's program in an empty folder."""
    folder.mkdir()
    with started(command("job", Sandbox()), folder) as child:
        yield child


def ready(child: Child) -> None:
    """Wait until its second process is there: the program has imported what it needs."""
    eventually(lambda: len(descendants(child.pid)) == 2)


def bring(folder: Path, **recipe: object) -> None:
    """Put a job into the folder."""
    convolutional().export(folder / "model.pt2")
    convolutional().save_dataset(folder / "dataset.safetensors")
    spec = JobSpec(model="model.pt2", dataset="dataset.safetensors", recipe=Recipe.model_validate(recipe))
    (folder / JOB_FILE).write_text(spec.model_dump_json())


def ended(child: Child) -> int:
    while not child.ended:
        child.read(0.1)
    return child.stop()


@pytest.mark.sampled(2)
@pytest.mark.parametrize("patience", [ready, lambda _: None], ids=["ready", "at once"])
def test_a_folder_that_was_renamed_before_the_line_gives_a_whole_job(
    tmp_path: Path, patience: Callable[[Child], None]
) -> None:
    with waiting(tmp_path / "spare") as child:
        patience(child)
        folder = (tmp_path / "spare").rename(tmp_path / "job")
        bring(folder)
        child.go()
        assert ended(child) == EXIT_OK, child.last_words
    report = Report.model_validate_json((folder / OUT_FOLDER / REPORT_FILE).read_bytes())
    assert report.verdict == "passed"
    assert report.summary.sqnr_db is not None  # the second process found its files
    compiled = [row for row in report.runtimes if row.runtime == "inductor"]
    assert {(row.basis, NO_COMPILER in (row.reason or "")) for row in compiled} == {("modelled", True)}
    made = {path.name for path in folder.iterdir()} - {JOB_FILE, "model.pt2", "dataset.safetensors"}
    assert made == {OUT_FOLDER, STDERR_FILE}
    assert not (tmp_path / "spare").exists()


def test_onnx_is_written_and_run_within_the_confinement(tmp_path: Path) -> None:
    folder = tmp_path / "job"
    with waiting(folder) as child:
        bring(folder, formats=["onnx"], validation={"on_failure": "error"})
        child.go()
        assert ended(child) == EXIT_OK, child.last_words
    report = Report.model_validate_json((folder / OUT_FOLDER / REPORT_FILE).read_bytes())
    assert report.verdict == "passed"
    assert [entry.name for entry in report.loaded if entry.sqnr_db] == ["model.onnx"]
    assert {path.name for path in (folder / OUT_FOLDER).iterdir()} == {"model.onnx", "model.safetensors", REPORT_FILE}
    made = {path.name for path in folder.iterdir()} - {JOB_FILE, "model.pt2", "dataset.safetensors"}
    assert made == {OUT_FOLDER, STDERR_FILE}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("said", [b"", GO.strip(), b"stop\n"], ids=["nothing", "half of it", "something else"])
def test_without_the_line_it_ends_and_leaves_nothing(tmp_path: Path, said: bytes) -> None:
    folder = tmp_path / "spare"
    with waiting(folder) as child:
        child._stdin.write(said)
        child._stdin.close()
        assert ended(child) == EXIT_OK
        assert child.read(0) == []
    assert [(path.name, path.stat().st_size) for path in folder.iterdir()] == [(STDERR_FILE, 0)]


def test_it_is_started_once(tmp_path: Path) -> None:
    with started([sys.executable, "-c", "import sys; print(sys.stdin.read())"], tmp_path) as child:
        child.go()
        with pytest.raises(ValueError, match="closed"):
            child.go()
        assert eventually(lambda: child.read(0.1)) == [b"go", b""]


def test_one_that_ended_can_be_started(tmp_path: Path) -> None:
    with started([sys.executable, "-c", "raise SystemExit(3)"], tmp_path) as child:
        assert ended(child) == 3
        child.go()


TEMPORARY = """
import os, pathlib, sys, tempfile
from sandbox.child import HERE
from sandbox.policy import Sandbox, confine
confine(pathlib.Path("."), Sandbox())
os.environ.update(HOME=HERE, TMPDIR=HERE)
tempfile.gettempdir()  # it remembers
print("ready", flush=True)
sys.stdin.readline()
os.close(tempfile.mkstemp()[0])
(pathlib.Path.home() / "cache").touch()
"""


def test_temporary_files_and_caches_follow_the_folder(tmp_path: Path) -> None:
    (tmp_path / "spare").mkdir()
    with started([sys.executable, "-c", TEMPORARY], tmp_path / "spare") as child:
        eventually(lambda: child.read(0.1))
        folder = (tmp_path / "spare").rename(tmp_path / "job")
        child.go()
        assert ended(child) == 0, child.last_words
    assert [path.name[:3] for path in sorted(folder.iterdir())] == ["cac", "std", "tmp"]


ASKER = """
import subprocess, sys, time
from app.intake.gate import sandbox_for
from app.intake.limits import Limits
from sandbox.policy import command
path, limits = sys.argv[1], Limits()
words = command("gate", sandbox_for("model", path, limits), "model", path, limits.as_json(), "")
subprocess.Popen(words, cwd=sys.argv[2], env={"PYTHONPATH": sys.argv[3]}, start_new_session=True)
time.sleep(60)
"""


def test_a_program_ends_with_the_process_that_waits_for_it(tmp_path: Path) -> None:
    """The gate waits for an upload that nobody writes; the API that asked it is killed."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    words = [sys.executable, "-c", ASKER, str(pipe), str(tmp_path), str(ROOT)]
    with subprocess.Popen(words, cwd=ROOT) as asker:
        (gate,) = eventually(lambda: descendants(asker.pid)[1:])
        eventually(lambda: "sandbox.child" in command_line(gate))
        time.sleep(1)
        assert is_running(gate)
        asker.kill()
        eventually(lambda: not is_running(gate), seconds=30)
