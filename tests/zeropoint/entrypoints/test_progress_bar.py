"""Progress: a bar where someone can see it and only when work is long; every step for a callback; else silence."""

import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from tests.networks import projections
from zeropoint import quantize
from zeropoint.entrypoints.progress_bar import PHASES, position, shown
from zeropoint.schema.job import Phase, Progress

ROOT = Path(__file__).resolve().parents[3]
WORK = """
import sys, time
from zeropoint.schema.job import Progress
from zeropoint.entrypoints.progress_bar import shown
with shown({progress}) as emit:
    for done in range(1, 4):
        time.sleep({seconds})
        emit(Progress(phase="calibrating", done=done, total=3))
"""


def on_a_terminal(seconds: float, progress: str = "None") -> str:
    """What the work writes on a standard error that is a terminal."""
    main, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    code = WORK.format(seconds=seconds, progress=progress)
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, stderr=terminal, check=True)
    os.close(terminal)
    os.set_blocking(main, False)
    try:
        return os.read(main, 65536).decode()
    except (BlockingIOError, OSError):  # nothing was written
        return ""
    finally:
        os.close(main)


def test_long_work_shows_a_bar_on_a_terminal() -> None:
    assert "calibrating 3/3" in on_a_terminal(0.8)


def test_short_work_shows_nothing() -> None:
    assert on_a_terminal(0.05) == ""


def test_false_is_silent_however_long_it_takes() -> None:
    assert on_a_terminal(0.8, "False") == ""


def test_nothing_is_drawn_where_standard_error_is_no_terminal() -> None:
    code = WORK.format(seconds=0.8, progress="None")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_a_callback_gets_every_step_of_every_phase() -> None:
    example, steps = projections(), list[tuple[Phase, int, int]]()
    rows = [example.dataset["input"][i : i + 1] for i in range(8)]
    quantize(example.module, rows, progress=lambda *step: steps.append(step))
    assert list(dict.fromkeys(phase for phase, _, _ in steps)) == list(PHASES)
    last = {phase: (done, total) for phase, done, total in steps}
    assert last["calibrating"] == (6, 6)
    assert all(done == total > 0 for done, total in last.values())


@pytest.mark.parametrize(("done", "total", "at"), [(0, 4, 1.0), (2, 4, 1.5), (7, 0, 1.0)])
def test_a_step_has_a_place_among_all_phases(done: int, total: int, at: float) -> None:
    assert position(Progress(phase="calibrating", done=done, total=total)) == at


def test_an_error_goes_through() -> None:
    with pytest.raises(RuntimeError, match="mine"), shown(False):
        raise RuntimeError("mine")
