"""The first process's end of a process that compiles `model.pt2` (see `compile_process`), and how one is started.

Nothing here imports Inductor, which takes half a second.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from select import select
from subprocess import PIPE, Popen
from time import monotonic
from traceback import print_exc
from typing import IO, Annotated, NamedTuple, NoReturn, Protocol

from pydantic import Field, FiniteFloat, TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

import zeropoint

COMMAND = (sys.executable, "-P", "-m", "zeropoint", "compiled")
PROCESS = "zeropoint.loading.compile_process"
GRACE_SECONDS = 10.0
"""How much longer an answer is waited for than the process has."""
NO_COMPILER = "This worker has no C++ compiler."
NOT_COMPILED = "Inductor could not compile or run the program."
DIED = "The process that compiles died."
TOO_LONG = "Compiling took longer than it may."
DEAD = b'{"ok": false, "died": true}\n'
ROUNDS = TypeAdapter(list[Annotated[list[FiniteFloat], Field(min_length=2, max_length=2)]])


class LockDown(Protocol):
    """What a confined process gives up before it opens a file."""

    @property
    def compiles(self) -> bool:
        """Whether `for_compiling` leaves a compiler."""

    def __call__(self) -> None:
        """Give up programs and processes."""

    def for_compiling(self, folder: Path) -> None:
        """Give up all programs but the compiler's, and all folders but this one."""


class Ends(Protocol):
    """The ends of a process that the first one holds."""

    @property
    def questions(self) -> IO[bytes]: ...
    @property
    def answers(self) -> IO[bytes]: ...


class ProgramEnds(NamedTuple):
    """The ends of a program."""

    questions: IO[bytes]
    answers: IO[bytes]
    wait: Callable[[], int]
    """Waits for its end, and returns the exit code; -N after signal N."""


class CompiledClient:
    """The first process's end. `reason` says why a run gave nothing."""

    def __init__(self, ends: Ends, scratch: Path, seconds: float) -> None:
        self._ends, self._scratch = ends, scratch
        self._deadline = monotonic() + seconds
        self.reason = NOT_COMPILED

    def open(self, folder: Path, isa: str | None, seconds: float) -> None:
        """Say what to open, at which level of oneDNN (None: the processor's own)."""
        self._ask({"folder": str(folder), "scratch": str(self._scratch), "isa": isa, "seconds": seconds})

    def run(self, batch: Sequence[Tensor]) -> dict[int, Tensor] | None:
        """Return the outputs by position; None when there are none."""
        outputs = self._scratch / "outputs.safetensors"
        self._ask({**self._written(batch), "outputs": str(outputs)})
        try:
            answer = json.loads(self._line() or DEAD)
            if answer.get("ok") is True:
                return {int(position): tensor for position, tensor in load_file(outputs).items()}
            self.reason = NO_COMPILER if answer.get("compiler") is False else self._why(answer)
        except (ValueError, AttributeError, OSError, SafetensorError):  # the process ran what the upload is made of
            self.reason = NOT_COMPILED
        return None

    def time(self, batch: Sequence[Tensor], floats: Path) -> list[list[float]] | None:
        """Return the milliseconds of calls of the program and of the float one in `floats`; None where that failed."""
        self._ask({**self._written(batch), "floats": str(floats)})
        try:
            return ROUNDS.validate_python(json.loads(self._line() or b"{}").get("rounds"))
        except (ValueError, AttributeError):  # as above
            return None

    def _written(self, batch: Sequence[Tensor]) -> dict[str, object]:
        """Write a batch, and return where it is."""
        inputs = self._scratch / "inputs.safetensors"
        save_file({str(i): tensor.contiguous().clone() for i, tensor in enumerate(batch)}, inputs)
        return {"inputs": str(inputs), "names": [str(i) for i in range(len(batch))]}

    def end(self) -> None:
        """Let the process end."""
        self._ask({"end": True})

    def _ask(self, question: Mapping[str, object]) -> None:
        with suppress(BrokenPipeError):  # it died: there will be no answer
            self._ends.questions.write(json.dumps(question).encode() + b"\n")

    def _line(self) -> bytes:
        seconds = max(0.0, self._deadline + GRACE_SECONDS - monotonic())
        return self._ends.answers.readline() if select([self._ends.answers], [], [], seconds)[0] else b""

    def _why(self, answer: Mapping[str, object]) -> str:
        if monotonic() >= self._deadline - 1:
            return TOO_LONG
        return DIED if answer.get("died") is True else NOT_COMPILED


@contextmanager
def compiled_client(
    ends: Ends, scratch: Path, folder: Path, isa: str | None, seconds: float
) -> Iterator[CompiledClient]:
    """Connect to a process that compiles the program in `folder`, for at most so many seconds."""
    client = CompiledClient(ends, scratch, seconds)
    client.open(folder, isa, seconds)
    try:
        yield client
    finally:
        client.end()


@contextmanager
def compiling_program() -> Iterator[Ends]:
    """Start a process that compiles, as a program; it ends with the block."""
    with own_program(COMMAND) as ends:
        yield ends


@contextmanager
def own_program(command: Sequence[str]) -> Iterator[ProgramEnds]:
    """Start a program that finds our packages; it ends with the block."""
    # unbuffered: nothing is left to flush into a pipe whose reader died
    with Popen(command, bufsize=0, stdin=PIPE, stdout=PIPE, env=_own_packages()) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield ProgramEnds(process.stdin, process.stdout, process.wait)
        finally:
            process.kill()


def _own_packages() -> dict[str, str]:
    """Return this process's environment with our packages on PYTHONPATH; a notebook may have only `sys.path`."""
    inherited = dict(os.environ)  # noqa: TID251 - no setting is read
    paths = [str(Path(zeropoint.__file__).parents[1]), inherited.get("PYTHONPATH", "")]
    return inherited | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def serve_copies(questions: int, answers: int, lock_down: LockDown) -> NoReturn:
    """Fork a process for each thing to open, one after another, until the questions end. It opens nothing itself."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    with open(questions, "rb", buffering=0) as lines:
        while line := lines.readline():
            if b'"folder"' not in line:
                continue  # of a process that is gone
            copy = os.fork()
            if copy == 0:
                code = 1
                try:
                    code = import_module(PROCESS).serve(line, lines, answers, lock_down)
                except BaseException:  # nothing of this process may go on in its copy
                    print_exc()
                finally:
                    os._exit(code)
            if os.waitpid(copy, 0)[1]:  # it could not answer
                os.write(answers, DEAD)
    os._exit(0)
