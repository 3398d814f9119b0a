"""The second process: a stranger's view of the saved files. `python -m quantization.loadback` needs torch alone.

It starts before the upload is opened, imports torch meanwhile, and then answers JSON lines:

    {"folder": F}                     open F/model.pt2 and F/model.safetensors   -> {"ok": true, "tensors": n}
    {"inputs": I, "outputs": O}       run the program on the tensors of file I, by position, write O -> {"ok": true}

What goes wrong is told on standard error, for operators; the answer is {"ok": false}.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE, Popen
from tempfile import TemporaryDirectory
from traceback import print_exc
from typing import Any, cast

import torch
import torch.ao.quantization.fx._decomposed  # the one import that a loader of model.pt2 needs
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind
from torch.utils import _pytree as pytree

COMMAND = (sys.executable, "-P", "-m", "quantization.loadback")


class Reader:
    """The parent's end: asks one question at a time. False or None means that the files don't serve a stranger."""

    def __init__(self, process: Popen[bytes], scratch: Path) -> None:
        self._process = process
        self._scratch = scratch

    def open(self, folder: Path) -> bool:
        """Whether the saved files open and agree with each other."""
        self._ask({"folder": str(folder)})
        return self._answer()

    def start(self, batch: Sequence[Tensor]) -> None:
        """Send a batch; the program runs on it while the caller goes on."""
        save_file({str(i): tensor.contiguous() for i, tensor in enumerate(batch)}, self._scratch / "inputs.safetensors")
        self._ask(
            {"inputs": str(self._scratch / "inputs.safetensors"), "outputs": str(self._scratch / "outputs.safetensors")}
        )

    def finish(self) -> dict[int, Tensor] | None:
        """The tensors that came out, by position."""
        if not self._answer():
            return None
        return {int(key): tensor for key, tensor in load_file(self._scratch / "outputs.safetensors").items()}

    def _ask(self, question: Mapping[str, str]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
        except BrokenPipeError:
            return  # it died: the answer says so

    def _answer(self) -> bool:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return bool(line) and json.loads(line).get("ok") is True


@contextmanager
def second_process(folder: Path) -> Iterator[Reader]:
    """Start the process and ask it; it ends with the block, and what was exchanged in `folder` goes with it."""
    with reader_process() as process, reader_in(folder, process) as reader:
        yield reader


@contextmanager
def reader_process(command: Sequence[str] = COMMAND) -> Iterator[Popen[bytes]]:
    """Start the process alone, before anyone knows what it will read; it ends with the block."""
    # unbuffered: nothing is left to flush into a pipe whose reader died
    with Popen(command, bufsize=0, stdin=PIPE, stdout=PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def reader_in(folder: Path, process: Popen[bytes]) -> Iterator[Reader]:
    """Ask a process that was started; what was exchanged in `folder` goes with the block."""
    with TemporaryDirectory(dir=folder) as scratch:
        yield Reader(process, Path(scratch))


def main(before_opening: Callable[[], None] = lambda: None) -> None:
    """Answer questions until standard input ends; `before_opening` is called before a file is opened."""
    before_opening()
    answers = sys.stdout
    sys.stdout = sys.stderr
    program: ExportedProgram | None = None
    for line in sys.stdin:
        question = json.loads(line)
        try:
            if "folder" in question:
                program = _open(Path(question["folder"]))
            elif program is not None:
                _run(program, Path(question["inputs"]), Path(question["outputs"]))
            answer = {"ok": program is not None}
        except Exception:
            print_exc()
            answer = {"ok": False}
        print(json.dumps(answer), file=answers, flush=True)


def _open(folder: Path) -> ExportedProgram:
    """Load both files; every tensor that both hold must be the same, bit for bit."""
    program = torch.export.load(folder / "model.pt2")
    stored = load_file(folder / "model.safetensors")
    for name, tensor in program.state_dict.items():
        if name in stored and not _same(tensor, stored[name]):
            raise ValueError(f"{name} differs between model.pt2 and model.safetensors")
    return program


def _same(left: Tensor, right: Tensor) -> bool:
    """Bit for bit; zero points may be kept in integers of another width."""
    if left.dtype != right.dtype:
        return left.shape == right.shape and bool((left == right).all())
    return left.shape == right.shape and torch.equal(
        left.reshape(-1).view(torch.uint8), right.reshape(-1).view(torch.uint8)
    )


def _run(program: ExportedProgram, inputs: Path, outputs: Path) -> None:
    tensors = load_file(inputs)
    given = iter(tensors[str(position)] for position in range(len(tensors)))
    user = [spec.arg for spec in program.graph_signature.input_specs if spec.kind is InputKind.USER_INPUT]
    flat = [argument.value if isinstance(argument, ConstantArgument) else next(given) for argument in user]
    arguments, options = cast(tuple[Any, Any], pytree.tree_unflatten(flat, program.call_spec.in_spec))
    with torch.no_grad():
        result = pytree.tree_leaves(program.module()(*arguments, **options))
    save_file({str(i): t.contiguous() for i, t in enumerate(result) if isinstance(t, Tensor)}, outputs)


if __name__ == "__main__":
    main()
