"""Open and run saved files in a second process, as another user would, with the format's own software alone.

The process starts before the upload is opened, as a program or as a copy of a job's own process, and then answers JSON
lines:

    {"folder": F}                               open the artifacts in F (see `readers`) -> {"ok": true, "loaded": […]}
    {"inputs": I, "names": […], "outputs": O, "also": […]}
                                                run on the tensors "0", "1", … of file I, which are the inputs of these
                                                names, and write the output tensors to file O -> {"ok": true}
    {"compare": name, "uploaded": U}            compare a tensor of file U with its saved form
                                                                                       -> {"ok": true, "compared": {…}}
    {"inputs": I, "names": […], "floats": F}    call the artifacts and the float programs in folder F in turn (`timing`)
                                                                                       -> {"ok": true, "rounds": {…}}

Further artifacts of the folder (`open_further_artifacts`) run on the same tensors; their outputs are written to file O
as "<file>:0", … So are those of the runs in `also` (`ALSO`), as "<run>:0", …; one that fails has none.

Errors are written to standard error, for operators; the answer is then {"ok": false}.
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from traceback import print_exc
from typing import IO, Any, NamedTuple, NoReturn, get_args

from safetensors.torch import load_file, save_file
from torch import Tensor

from zeropoint.data.batches import ModelInputs
from zeropoint.errors import Killed
from zeropoint.loading.compiled import (
    CompiledClient,
    Ends,
    LockDown,
    compiled_client,
    compiling_program,
    own_program,
    serve_copies,
)
from zeropoint.loading.readers import Opened, open_artifact, open_further_artifacts
from zeropoint.loading.readers.weights import OpenedWeights
from zeropoint.loading.saved_runs import Also, batch_of, run_opened
from zeropoint.loading.timing import Rounds, time_opened
from zeropoint.schema.job import FROM_OUTSIDE
from zeropoint.schema.report import Loaded

KILLS = FROM_OUTSIDE | {signal.SIGXCPU, signal.SIGSYS}
"""Signals that say nothing about the files: a limit on time, and the sandbox, send the last two."""
COMMAND = (sys.executable, "-P", "-m", "zeropoint", "loadback")


class Pipes(NamedTuple):
    """The ends of a second process that the first one holds."""

    questions: IO[bytes]
    answers: IO[bytes]
    wait: Callable[[], int]
    """Waits for the process to end, and returns its exit code; -N after signal N."""
    compiling: "Compiling | None" = None
    """Starts processes that compile; None where there is no compiler."""


Compiling = Callable[[], AbstractContextManager[Ends]]


class LoadbackClient:
    """The parent's end, which asks one question at a time; the answer False or None means unusable files.

    Each question raises Killed when the process was killed: that says nothing about the files.
    """

    def __init__(self, pipes: Pipes, scratch: Path) -> None:
        self._pipes = pipes
        self._scratch = scratch
        self.loaded: list[Loaded] = []
        """The opened files, and the software that opened each."""
        self.further_outputs: dict[str, dict[int, Tensor]] = {}
        """The outputs of further artifacts for the last batch, by file name."""
        self.also_outputs: dict[str, dict[int, Tensor]] = {}
        """The outputs of further runs of the last batch, by their names."""

    def open(self, folder: Path) -> bool:
        """Return whether the saved files open and agree with each other."""
        self._ask({"folder": str(folder)})
        answer = self._answer()
        self.loaded = [Loaded.model_validate(entry) for entry in answer.get("loaded", ())]
        return answer["ok"] is True

    def compare(self, name: str, uploaded: Path) -> dict[str, float | None] | None:
        """Return how a saved tensor differs from the uploaded one (see `readers.weights`); None on a mismatch."""
        self._ask({"compare": name, "uploaded": str(uploaded)})
        answer = self._answer()
        compared: dict[str, float | None] = answer.get("compared", {})
        return compared if answer["ok"] else None

    def start(self, batch: Sequence[Tensor], also: Sequence[Also] = ()) -> None:
        """Send a batch; the program runs on it while the caller continues. `also`: further runs of it."""
        outputs = self._scratch / "outputs.safetensors"
        self._ask({**self._written(batch), "outputs": str(outputs), "also": list(also)})

    def finish(self) -> dict[int, Tensor] | None:
        """Return the output tensors by position; None when the run failed."""
        if not self._answer()["ok"]:
            return None
        outputs: dict[str, dict[int, Tensor]] = {"": {}}
        for key, tensor in load_file(self._scratch / "outputs.safetensors").items():
            file, _, position = key.rpartition(":")
            outputs.setdefault(file, {})[int(position)] = tensor
        main, runs = outputs.pop(""), get_args(Also)
        self.also_outputs = {name: outputs.pop(name) for name in runs if name in outputs}
        self.further_outputs = outputs
        return main

    def time(self, batch: Sequence[Tensor], write: Callable[[Path], None]) -> dict[str, Rounds]:
        """Return the time of calls by runtime; `write` puts float programs into the folder that it is given."""
        with TemporaryDirectory(dir=self._scratch) as floats:
            write(Path(floats))
            self._ask({**self._written(batch), "floats": floats})
            rounds: dict[str, Rounds] = self._answer().get("rounds", {})
        return rounds

    def time_compiled(
        self, folder: Path, seconds: float, batch: Sequence[Tensor], write: Callable[[Path], None]
    ) -> Rounds | None:
        """Return the time of calls of compiled programs likewise; None where that failed."""
        with TemporaryDirectory(dir=self._scratch) as floats:
            write(Path(floats))
            with self.compiled(folder, None, seconds) as client:
                return client.time(batch, Path(floats))

    @property
    def compiles(self) -> bool:
        """Whether programs can be compiled here."""
        return self._pipes.compiling is not None

    @contextmanager
    def compiled(self, folder: Path, isa: str | None, seconds: float) -> Iterator[CompiledClient]:
        """Connect to a process that compiles the program in `folder` (see `compile_process`)."""
        assert self._pipes.compiling is not None
        scratch = self._scratch / "compiled"
        scratch.mkdir(exist_ok=True)
        with self._pipes.compiling() as ends, compiled_client(ends, scratch, folder, isa, seconds) as client:
            yield client

    def _written(self, batch: Sequence[Tensor]) -> dict[str, object]:
        """Write a batch, and return where it is."""
        inputs = self._scratch / "inputs.safetensors"
        names = batch.names if isinstance(batch, ModelInputs) else [str(position) for position in range(len(batch))]
        save_file({str(i): tensor.contiguous().clone() for i, tensor in enumerate(batch)}, inputs)
        return {"inputs": str(inputs), "names": names}

    def _ask(self, question: Mapping[str, object]) -> None:
        try:
            self._pipes.questions.write(json.dumps(question).encode() + b"\n")
        except BrokenPipeError:
            return  # the process died: `_answer` then reads no line

    def _answer(self) -> dict[str, Any]:
        line = self._pipes.answers.readline()
        if line.endswith(b"\n"):
            answer: dict[str, Any] = json.loads(line)
            return answer
        number = -self._pipes.wait()
        if number in KILLS:
            raise Killed(number)
        return {"ok": False}


@contextmanager
def second_process(folder: Path) -> Iterator[LoadbackClient]:
    """Start the process and connect to it; both the process and the files exchanged in `folder` end with the block."""
    with loadback_process() as pipes, loadback_client(folder, pipes) as client:
        yield client


@contextmanager
def loadback_process() -> Iterator[Pipes]:
    """Start the process alone, as a program, before its files are known; it ends with the block."""
    with own_program(COMMAND) as ends:
        yield Pipes(ends.questions, ends.answers, ends.wait, compiling_program)


@contextmanager
def copied_process(lock_down: LockDown) -> Iterator[Pipes]:
    """Start the process as a copy of this one, which saves it the import of torch; it ends with the block.

    This process must have opened no upload yet, and torch must have computed nothing: a copy has none of the threads.
    The copy calls `lock_down` before it opens a file. Where a compiler may be started, one more copy makes those that
    compile.
    """
    with ExitStack() as copies:
        compiling: Compiling | None = None
        if lock_down.compiles:
            ends = copies.enter_context(_copy(lambda own: serve_copies(*own, lock_down)))
            compiling = partial(_already, ends)
        pipes = copies.enter_context(_copy(lambda own: _answer_as_a_copy(lock_down, own)))
        yield pipes._replace(compiling=compiling)


@contextmanager
def _already(ends: Ends) -> Iterator[Ends]:
    """Connect to a process that runs already."""
    yield ends


@contextmanager
def _copy(become: Callable[[tuple[int, int]], NoReturn]) -> Iterator[Pipes]:
    """Fork a process that becomes something with its ends of two pipes; it ends with the block."""
    (question, questions), (answers, answer) = os.pipe(), os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    copy = os.fork()
    if copy == 0:
        try:
            for end in (questions, answers):  # while the copy held these, its questions would never end
                os.close(end)
            become((question, answer))
        except BaseException:  # nothing of the first process may go on in its copy
            print_exc()
        finally:
            os._exit(1)
    os.close(question)
    os.close(answer)
    wait = cache(lambda: os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1]))
    with os.fdopen(questions, "wb", buffering=0) as asked, os.fdopen(answers, "rb", buffering=0) as told:
        try:
            yield Pipes(asked, told, wait)
        finally:
            if not wait.cache_info().currsize:  # its number is still its own
                os.kill(copy, signal.SIGKILL)
                wait()


def _answer_as_a_copy(lock_down: LockDown, own: tuple[int, int]) -> NoReturn:
    """Answer on the pipes `own`, and end."""
    for number, end in enumerate(own):  # standard input and output
        os.dup2(end, number)
        os.close(end)
    os._exit(main(lock_down))


@contextmanager
def loadback_client(folder: Path, pipes: Pipes) -> Iterator[LoadbackClient]:
    """Connect to a started process; the files exchanged in `folder` are removed with the block."""
    with TemporaryDirectory(dir=folder) as scratch:
        yield LoadbackClient(pipes, Path(scratch))


def main(lock_down: Callable[[], None]) -> int:
    """Answer questions until standard input ends, and return 0. `lock_down` is called before a file is opened."""
    lock_down()
    answers = sys.stdout
    sys.stdout = sys.stderr
    opened: Opened | None = None
    further: Mapping[str, Opened] = {}
    for line in sys.stdin:
        question = json.loads(line)
        try:
            answer: dict[str, Any] = {"ok": True}
            if "folder" in question:
                folder = Path(question["folder"])
                opened, further = open_artifact(folder), open_further_artifacts(folder)
                loaded = [entry for artifact in (opened, *further.values()) for entry in artifact.loaded]
                answer["loaded"] = [entry.model_dump() for entry in loaded]
            elif opened is None:
                answer["ok"] = False
            elif "compare" in question:
                answer["compared"] = _compare(opened, question["compare"], Path(question["uploaded"]))
            elif "floats" in question:
                answer["rounds"] = time_opened(opened, further, Path(question["floats"]), batch_of(question))
            else:
                run_opened(opened, further, question)
        except Exception:
            print_exc()
            answer = {"ok": False}
        print(json.dumps(answer), file=answers, flush=True)
    return 0


def _compare(opened: Opened, name: str, uploaded: Path) -> dict[str, float | None]:
    if not isinstance(opened, OpenedWeights):
        raise ValueError("the folder holds more than weights")
    return opened.compare(name, uploaded)
