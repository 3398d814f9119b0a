"""Run `model.pt2` as its users do who compile it: Inductor with freezing, in a process of its own.

It alone may start a C++ compiler, and its files go into one folder (docs/explanation/sandbox.md). Each level of the
processor needs another process, since oneDNN reads its level once; what the first one compiled serves the next. A
process takes one line that says what to open, and then answers JSON lines:

    {"folder": F, "scratch": S, "isa": "AVX2", "seconds": 60}     compile F/model.pt2 when the first tensors are there
    {"inputs": I, "names": […], "outputs": O}                     as the second process does (`loadback`)
    {"inputs": I, "names": […], "floats": F}                      likewise: F/model.pt2 is compiled too

It ends with its input, when its time is up, and with the first error. The answer to that is {"ok": false}, with
"compiler": false where there is none.
"""

import ctypes
import json
import math
import os
import resource
import shutil
import signal
import subprocess
import tempfile
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from traceback import print_exc
from typing import IO, Any

import torch
import torch._inductor.config
from safetensors.torch import save_file
from torch import Tensor
from torch._inductor.cpu_vec_isa import VecISA
from torch.utils import _pytree as pytree

from zeropoint.loading.compiled import LockDown
from zeropoint.loading.readers.program import OpenedProgram, open_saved_program
from zeropoint.loading.saved_runs import batch_of
from zeropoint.loading.timing import Rounds, Run, alternately, one_thread
from zeropoint.schema.formats import PROGRAM_FILE

PR_SET_PDEATHSIG = 1


def main(lock_down: LockDown) -> int:
    """Serve standard input as a program of its own."""
    answers = os.dup(1)
    os.dup2(2, 1)
    with open(0, "rb", buffering=0, closefd=False) as lines:
        return serve(lines.readline(), lines, answers, lock_down)


def serve(line: bytes, lines: IO[bytes], answers: int, lock_down: LockDown) -> int:
    """Open what `line` says and answer `lines`, until the end or the first error; return 0."""
    what = json.loads(line)
    _die_with_the_parent()
    _limit(what["seconds"])
    _settle(Path(what["scratch"]), what["isa"])
    lock_down.for_compiling(Path(what["scratch"]))
    program: _CompiledProgram | None = None
    while question := json.loads(lines.readline() or b'{"end": true}'):
        if "end" in question:
            return 0
        try:
            answer: dict[str, Any] = {"ok": True}
            program = program or _CompiledProgram(open_saved_program(Path(what["folder"])))
            if "floats" in question:
                answer["rounds"] = _time(program, question)
            else:
                _run(program, question)
        except Exception:
            print_exc()
            answer = {"ok": False, "compiler": _has_compiler()}
        os.write(answers, json.dumps(answer).encode() + b"\n")
        if not answer["ok"]:
            return 0
    return 0


def _die_with_the_parent() -> None:
    """Have the kernel end this process with the one that started it; while it compiles, it reads no end of input."""
    with suppress(AttributeError):  # Linux alone has it
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _limit(seconds: float) -> None:
    """End this process when its time is up; a compiler that it started has as much processor time."""
    signal.alarm(math.ceil(seconds))
    whole = math.ceil(seconds) + 1
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    cores = os.cpu_count() or 1
    allowed = whole * cores if hard == resource.RLIM_INFINITY else min(whole * cores, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (allowed, allowed))


def _settle(scratch: Path, isa: str | None) -> None:
    """Set where libraries put their files, and oneDNN's level. Both are read on first use."""
    # no setting is read: these are the libraries' own
    os.environ.update(TMPDIR=str(scratch), TORCHINDUCTOR_CACHE_DIR=str(scratch))  # noqa: TID251
    if isa is not None:
        os.environ["ONEDNN_MAX_CPU_ISA"] = isa  # noqa: TID251
    tempfile.tempdir = None
    warnings.simplefilter("ignore")
    config = torch._inductor.config
    config.freezing = True
    config.compile_threads = 1  # a pool would be other Python processes
    config.cpp.vec_isa_ok = True  # the processor says by itself what it has; only newer instructions are tried
    VecISA._probe_load = _loads  # type: ignore[method-assign,assignment]
    config.cpp_cache_precompile_headers = False


def _loads(_: VecISA, library: str) -> bool:
    """Return whether a library can be loaded: here, where Inductor would start another Python."""
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


class _CompiledProgram:
    """A program that its first call compiles. Buffers that a call changes stay changed, as in the float one."""

    def __init__(self, opened: OpenedProgram) -> None:
        self._opened = opened
        self._compiled: Any = torch.compile(opened.module(), dynamic=False)

    def run(self, batch: Mapping[str, Tensor]) -> list[object]:
        """Return the outputs as a flat list."""
        arguments, options = self._opened.arguments(batch)
        return list(pytree.tree_leaves(self._compiled(*arguments, **options)))

    def call(self, batch: Mapping[str, Tensor]) -> Run:
        """Return a call on one copy of the batch, to measure its time."""
        arguments, options = self._opened.arguments(batch)
        return lambda: self._compiled(*arguments, **options)


def _run(program: _CompiledProgram, question: Mapping[str, Any]) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        values = program.run(batch_of(question))
    outputs = {str(i): value.contiguous().clone() for i, value in enumerate(values) if isinstance(value, Tensor)}
    save_file(outputs, question["outputs"])


def _time(program: _CompiledProgram, question: Mapping[str, Any]) -> Rounds:
    """Compile the program and the float one for one thread, and call them in turn."""
    batch = batch_of(question)
    float_program = OpenedProgram(torch.export.load(Path(question["floats"]) / PROGRAM_FILE), ())
    with one_thread():
        runs = [program.call(batch), _CompiledProgram(float_program).call(batch)]
        for run in runs:  # which compiles
            run()
        return alternately(*runs)


def _has_compiler() -> bool:
    compiler = os.environ.get("CXX", "g++")  # noqa: TID251 - what Inductor reads
    if shutil.which(compiler) is None:
        return False
    try:
        return subprocess.run([compiler, "--version"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False
