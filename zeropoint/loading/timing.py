"""Time calls of saved programs and of the float one, alternately and in one thread: a busy machine slows all alike."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, perf_counter
from traceback import print_exc

import torch
from torch import Tensor

from zeropoint.loading.readers import Opened
from zeropoint.loading.readers.onnx import OpenedOnnx, call_in_one_thread
from zeropoint.loading.readers.program import OpenedProgram
from zeropoint.schema.formats import ONNX_FILE, PROGRAM_FILE

ROUNDS = 45
WARM_UP = 3
MOST_SECONDS = 4.0
"""For which programs are called in turn: slow ones get fewer rounds, but always one to warm up and one that counts."""

Run = Callable[[], object]
Rounds = list[list[float]]
"""The milliseconds of a call of each program, round by round."""


def alternately(*runs: Run) -> Rounds:
    """Call the programs in turn, WARM_UP + ROUNDS times or until the time is over, and return the later rounds."""
    began = monotonic()
    _repeated(runs, WARM_UP, began + MOST_SECONDS / 2)
    return _repeated(runs, ROUNDS, began + MOST_SECONDS)


def _repeated(runs: tuple[Run, ...], most: int, deadline: float) -> Rounds:
    rounds = [_timed(runs)]
    while len(rounds) < most and monotonic() < deadline:
        rounds.append(_timed(runs))
    return rounds


def _timed(runs: tuple[Run, ...]) -> list[float]:
    """Return the milliseconds of one call of each program."""
    taken = []
    for run in runs:
        began = perf_counter()
        run()
        taken.append(1000 * (perf_counter() - began))
    return taken


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute in one thread, without gradients, until the block ends."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.set_num_threads(threads)


def time_opened(
    opened: Opened, further: Mapping[str, Opened], floats: Path, batch: Mapping[str, Tensor]
) -> dict[str, Rounds]:
    """Return the rounds of the saved programs that run, each against the float one of its kind in the folder `floats`.

    Where that folder lacks one, they hold the time of the saved program alone.
    """
    found: dict[str, Rounds] = {}
    for runtime, artifact in (("torch", opened), ("onnxruntime", further.get(ONNX_FILE))):
        try:
            with one_thread():
                if isinstance(artifact, OpenedProgram):
                    found[runtime] = _time_program(artifact, floats / PROGRAM_FILE, batch)
                if isinstance(artifact, OpenedOnnx):
                    found[runtime] = _time_onnx(artifact, floats / ONNX_FILE, batch)
        except Exception:  # the report then says that it was not measured
            print_exc()
    return found


def _time_program(program: OpenedProgram, floats: Path, batch: Mapping[str, Tensor]) -> Rounds:
    float_program = OpenedProgram(torch.export.load(floats), ())
    return alternately(program.call(batch), float_program.call(batch))


def _time_onnx(onnx: OpenedOnnx, floats: Path, batch: Mapping[str, Tensor]) -> Rounds:
    paths = [path for path in (Path(onnx.path), floats) if path.exists()]
    return alternately(*(call_in_one_thread(path, batch.values()) for path in paths))
