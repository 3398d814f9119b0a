"""The child as a process: what it gets, how it is heard, and that it is really gone afterwards."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sandbox.policy import Sandbox, command
from tests.service.processes import eventually, is_running
from worker.child.process import LINE_CAP, STDERR_CAP, STDERR_FILE, LineReader, started
from zeropoint.schema.job import EXIT_FAILED


def python(program: str) -> list[str]:
    return [sys.executable, "-u", "-c", program]


def run(program: str, folder: Path) -> tuple[int, list[bytes]]:
    """Run a small program to its end: exit code and lines."""
    lines: list[bytes] = []
    with started(python(program), folder) as child:
        while not child.ended:
            lines += child.read(0.1)
        code = child.stop()
        lines += child.read(0)
    return code, lines


def test_lines_and_the_exit_code_arrive(tmp_path: Path) -> None:
    assert run("print('a'); print('b'); raise SystemExit(1)", tmp_path) == (1, [b"a", b"b"])


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL], ids=lambda number: number.name)
def test_death_by_a_signal_is_a_negative_exit_code(number: signal.Signals, tmp_path: Path) -> None:
    code, _ = run(f"import os; os.kill(os.getpid(), {int(number)})", tmp_path)
    assert code == -number


def test_what_was_said_just_before_a_crash_is_heard(tmp_path: Path) -> None:
    _, lines = run("import os\nfor i in range(5000): print(i)\nos.abort()", tmp_path)
    assert lines[-1] == b"4999"


def test_a_child_that_obeys_is_stopped_by_sigterm(tmp_path: Path) -> None:
    with started(python("import time; time.sleep(60)"), tmp_path) as child:
        assert child.stop() == -signal.SIGTERM


def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready'); time.sleep(60)"
    with started(python(stubborn), tmp_path) as child:
        while not child.read(1):
            pass
        began = time.monotonic()
        assert child.stop() == -signal.SIGKILL
        assert time.monotonic() - began < 20


def test_a_grandchild_is_stopped_with_the_child(tmp_path: Path) -> None:
    program = "import subprocess, time; print(subprocess.Popen(['sleep', '60']).pid); time.sleep(60)"
    with started(python(program), tmp_path) as child:
        while not (lines := child.read(1)):
            pass
    eventually(lambda: not is_running(int(lines[0])))


def test_a_grandchild_that_outlives_the_child_holds_nothing_up(tmp_path: Path) -> None:
    began = time.monotonic()
    code, lines = run("import subprocess; print(subprocess.Popen(['sleep', '60']).pid)", tmp_path)
    assert code == 0
    assert time.monotonic() - began < 30
    eventually(lambda: not is_running(int(lines[0])))


def test_the_child_dies_when_its_supervisor_is_killed(tmp_path: Path) -> None:
    supervisor = f"""
import pathlib, sys, time
from zeropoint.schema.job import EXIT_FAILED
from tests.service.processes import eventually, is_running
from worker.child.process import started
with started(["sleep", "60"], pathlib.Path({str(tmp_path)!r})) as child:
    print(child.pid, flush=True)
    time.sleep(60)
"""
    root = Path(__file__).parents[3]
    with subprocess.Popen(python(supervisor), cwd=root, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert is_running(pid)
        process.kill()
    eventually(lambda: not is_running(pid))


def test_the_child_sees_nothing_of_the_workers_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZEROPOINT_DATABASE_URL", "postgresql://user:secret@127.0.0.1/zeropoint")
    _, lines = run("import os; print(*sorted(os.environ))", tmp_path)
    ours = {b"HOME", b"LANG", b"OMP_WAIT_POLICY", b"PATH", b"PYTHONPATH", b"TMPDIR"}
    ours |= {b"HF_HUB_OFFLINE", b"TRANSFORMERS_OFFLINE"}
    assert set(lines[0].split()) <= ours | {b"LC_CTYPE"}


def test_the_child_inherits_no_open_file(tmp_path: Path) -> None:
    with (tmp_path / "secret").open("w") as secret:
        os.set_inheritable(secret.fileno(), True)
        _, lines = run("import os; print(*os.listdir('/proc/self/fd'))", tmp_path)
    assert len(lines[0].split()) == 4  # 0, 1, 2 and the listing itself


def test_standard_error_is_kept_up_to_a_cap_and_its_end_is_remembered(tmp_path: Path) -> None:
    program = "import sys; [sys.stderr.write('x' * 1000) for _ in range(5000)]; sys.stderr.write('the end')"
    with started(python(program), tmp_path) as child:
        while not child.ended:
            child.read(1)
        child.stop()
        child.read(0)
    assert (tmp_path / STDERR_FILE).stat().st_size == STDERR_CAP
    assert child.last_words.endswith("x" * 1000 + "the end")


def test_an_endless_line_takes_no_memory_and_the_next_one_is_read() -> None:
    reader = LineReader()
    for _ in range(100):
        reader.feed(b"x" * LINE_CAP)
    reader.feed(b"x\nnext\n")
    assert reader.pop_lines() == [b"next"]


def test_a_line_in_pieces_is_put_together() -> None:
    reader = LineReader()
    for piece in (b"on", b"e\ntw", b"o\n"):
        reader.feed(piece)
    assert reader.pop_lines() == [b"one", b"two"]


def test_the_childs_program_never_imports_from_the_jobs_folder(tmp_path: Path) -> None:
    (tmp_path / "pydantic.py").write_text("print('imported')")
    with started(command("job", Sandbox()), tmp_path) as child:
        child.go()
        while not child.ended:
            assert b"imported" not in child.read(1)
        assert child.stop() == EXIT_FAILED  # there is no job in the folder
