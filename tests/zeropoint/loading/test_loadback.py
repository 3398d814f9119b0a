"""The second process tells the truth about the saved files, also when they are broken."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.job_program import shared_second_process
from tests.networks import convolutional
from tests.servers import ROOT
from tests.service.processes import descendants, eventually, is_running
from tests.zeropoint.conftest import QuantizeExample
from zeropoint.data.dataset import open_dataset
from zeropoint.errors import Killed
from zeropoint.formats import VALIDATED, write_formats
from zeropoint.loading.compiled import own_program
from zeropoint.loading.loadback import KILLS, Pipes, loadback_client, second_process
from zeropoint.model.source import ProgramSource
from zeropoint.validation.evaluation import evaluate


def save(quantized: QuantizeExample, folder: Path) -> None:
    list(write_formats(quantized(convolutional()), folder, VALIDATED["pt2"]))


def test_saved_files_open_and_run(quantized: QuantizeExample, tmp_path: Path) -> None:
    save(quantized, tmp_path)
    with second_process(tmp_path) as reader:
        assert reader.open(tmp_path)
        reader.start([torch.randn(3, 1, 8, 8)])
        outputs = reader.finish()
    assert outputs is not None
    assert outputs[0].shape == (3, 10)


def truncate(folder: Path) -> None:
    whole = (folder / "model.pt2").read_bytes()
    (folder / "model.pt2").write_bytes(whole[: len(whole) // 2])


def change_one_weight(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["head.weight"][0, 0] += 1
    save_file(tensors, folder / "model.safetensors")


def remove(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize("damage", [truncate, change_one_weight, remove], ids=lambda damage: damage.__name__)
def test_a_damaged_file_does_not_pass(
    quantized: QuantizeExample, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    save(quantized, tmp_path)
    damage(tmp_path)
    with shared_second_process(tmp_path) as reader:
        assert not reader.open(tmp_path)


def test_a_process_that_died_does_not_pass(quantized: QuantizeExample, tmp_path: Path) -> None:
    result = quantized(convolutional())
    assert isinstance(result.source, ProgramSource)
    samples = open_dataset(tmp_path / "dataset.safetensors", result.source.inputs, None)
    others = set(descendants(os.getpid()))
    with second_process(tmp_path) as reader:
        (process,) = set(descendants(os.getpid())) - others
        os.kill(process, signal.SIGSEGV)
        eventually(lambda: not is_running(process))
        assert not reader.open(tmp_path)
        assert not evaluate(result, samples, reader, lambda *_: None).ran


@pytest.mark.parametrize("number", sorted(KILLS), ids=lambda number: number.name)
def test_one_that_was_killed_says_nothing_about_the_files(number: signal.Signals, tmp_path: Path) -> None:
    with own_program([sys.executable, "-c", f"import os; input(); os.kill(os.getpid(), {number:d})"]) as ends:
        with loadback_client(tmp_path, Pipes(*ends)) as reader, pytest.raises(Killed) as raised:
            reader.open(tmp_path)
        assert raised.value.signal == number


COPIES = """
import os, sys
from pathlib import Path
from zeropoint.loading.loadback import copied_process, loadback_client

class LockDown:
    compiles = False

    def __call__(self):
        print("locked down", file=sys.stderr)

first, *others = map(Path, sys.argv[1].split(":"))
with copied_process(LockDown()) as pipes, loadback_client(first, pipes) as client:
    copy = int(Path(f"/proc/self/task/{os.getpid()}/children").read_text())
    if "killed" in sys.argv:
        os.kill(copy, 9)
    print(client.open(first), flush=True)
    sys.stdin.read()
for other in others:
    with copied_process(LockDown()) as pipes, loadback_client(other, pipes) as client:
        print(client.open(other), flush=True)
"""


@contextmanager
def copying(*folders: Path, how: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """A process that opens a folder in a copy of itself, and waits for the end of its standard input; then others."""
    command = [sys.executable, "-c", COPIES, ":".join(map(str, folders)), how]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        yield process
        process.kill()


def test_a_copy_opens_files_once_it_is_locked_down(quantized: QuantizeExample, tmp_path: Path) -> None:
    whole, damaged = tmp_path / "whole", tmp_path / "damaged"
    whole.mkdir()
    save(quantized, whole)
    truncate(shutil.copytree(whole, damaged))
    with copying(whole, damaged) as process:
        said, errors = process.communicate()
        assert said == b"True\nFalse\n"
        assert errors.startswith(2 * b"locked down\n")  # then torch says what is wrong with the other file
        assert process.returncode == 0


def test_a_copy_ends_with_the_process_that_made_it(quantized: QuantizeExample, tmp_path: Path) -> None:
    save(quantized, tmp_path)
    with copying(tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"True\n"
        _, copy = descendants(process.pid)
        process.kill()
        eventually(lambda: not is_running(copy))


def test_a_copy_that_was_killed_is_told_from_one_that_crashed(tmp_path: Path) -> None:
    with copying(tmp_path, how="killed") as process:
        _, errors = process.communicate()
        assert b"zeropoint.errors.Killed" in errors
