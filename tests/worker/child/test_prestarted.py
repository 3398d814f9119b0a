"""Jobs' processes are forked from a template; without one, they start by themselves and are the same."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sandbox.policy import EXIT_UNCONFINED, Sandbox
from tests.networks import convolutional
from tests.service.processes import command_line, descendants, eventually, is_leader, is_running, parent
from worker.child import template
from worker.child.prestarted import PrestartedChild, PrestartedChildren
from worker.child.process import environment
from zeropoint.schema.job import EXIT_OK, JOB_FILE, OUT_FOLDER, REPORT_FILE, JobSpec
from zeropoint.schema.recipe import Recipe
from zeropoint.schema.report import Report


@pytest.fixture
def children(tmp_path: Path) -> Iterator[PrestartedChildren]:
    children = PrestartedChildren(tmp_path / "scratch", Sandbox())
    yield children
    children.close()


@contextmanager
def claimed(children: PrestartedChildren) -> Iterator[PrestartedChild]:
    one = children.claim()
    try:
        yield one
    finally:
        one.end()
        assert not is_running(one.child.pid)
        assert not one.folder.path.exists()


def exit_code_of(one: PrestartedChild) -> int:
    """Do a job with it."""
    convolutional().export(one.folder.path / "model.pt2")
    convolutional().save_dataset(one.folder.path / "dataset.safetensors")
    spec = JobSpec(model="model.pt2", dataset="dataset.safetensors", recipe=Recipe())
    (one.folder.path / JOB_FILE).write_text(spec.model_dump_json())
    one.child.go()
    while not one.child.ended:
        one.child.read(0.1)
    return one.child.stop()


def templates() -> set[int]:
    ours = (pid for pid in descendants(os.getpid()) if pid != os.getpid() and parent(pid) == os.getpid())
    return {pid for pid in ours if "sandbox.template" in command_line(pid) and not is_leader(pid)}


def lone(children: PrestartedChildren) -> None:
    """There was never a template."""


def forked(children: PrestartedChildren) -> None:
    children.prepare()


def orphaned(children: PrestartedChildren) -> None:
    """The template was killed."""
    others = templates()
    children.prepare()
    (pid,) = templates() - others
    os.kill(pid, signal.SIGKILL)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("begin", [lone, forked, orphaned], ids=lambda begin: begin.__name__)
def test_each_job_has_a_process_of_its_own(
    children: PrestartedChildren, begin: Callable[[PrestartedChildren], None]
) -> None:
    begin(children)
    pids = set()
    for _ in range(2):
        with claimed(children) as one:
            pids.add(one.child.pid)
            assert is_leader(one.child.pid)
            assert exit_code_of(one) == EXIT_OK, one.child.last_words
            report = Report.model_validate_json((one.folder.path / OUT_FOLDER / REPORT_FILE).read_bytes())
            assert report.summary.sqnr_db is not None  # a second process read the files
    assert len(pids) == 2


def test_a_forked_process_is_confined_as_one_that_was_started(children: PrestartedChildren, tmp_path: Path) -> None:
    children.prepare()
    with claimed(children) as one:
        eventually(lambda: len(descendants(one.child.pid)) == 2)  # locked down, when it has its second process
        status = Path(f"/proc/{one.child.pid}/status").read_text()
        assert "Seccomp:\t2" in status
        assert "NoNewPrivs:\t1" in status
        assert {Path(f"/proc/{one.child.pid}/fd/{n}").exists() for n in (0, 1, 2)} == {True}
        files = Path(f"/proc/{one.child.pid}/fd")
        eventually(lambda: len(list(files.iterdir())) == 3 + 2)  # and its ends of the pipes to its second process
    unconfined = PrestartedChildren(tmp_path / "other", Sandbox(required=("moat",)))
    unconfined.prepare()
    with claimed(unconfined) as one:
        assert exit_code_of(one) == EXIT_UNCONFINED
    unconfined.close()


def test_what_a_job_leaves_running_ends_with_it(children: PrestartedChildren) -> None:
    children.prepare()
    with claimed(children) as one:
        _, second = eventually(lambda: found if len(found := descendants(one.child.pid)) == 2 else None)
        os.kill(one.child.pid, signal.SIGKILL)
        while not one.child.ended:
            one.child.read(0.1)
        assert one.child.stop() == -signal.SIGKILL
    assert not Path(f"/proc/{second}").exists()  # nor a zombie


def test_a_template_with_a_second_thread_forks_nothing(
    children: PrestartedChildren, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template, "ALONE", {"OPENBLAS_NUM_THREADS": "4"})
    others = templates()
    children.prepare()
    with claimed(children) as one:
        assert "sandbox.child" in command_line(one.child.pid)
        assert templates() == others
    children.prepare()
    assert len(templates() - others) == 1


def test_a_template_is_replaced_in_time(children: PrestartedChildren, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template, "MOST_FORKS", 1)
    others = templates()
    children.prepare()
    (first,) = templates() - others
    with claimed(children):
        children.prepare()
        (second,) = templates() - others
    assert second != first


def test_the_template_has_no_credentials() -> None:
    assert not [name for name in environment(Path("/")) | template.ALONE if name.startswith("ZEROPOINT_")]
