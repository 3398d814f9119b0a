"""The second process tells the truth about the saved files, also when they are broken."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.networks import convolutional
from tests.zeropoint.conftest import QuantizeExample
from zeropoint.data.dataset import open_dataset
from zeropoint.formats import VALIDATED, write_formats
from zeropoint.loading.loadback import second_process
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
    with second_process(tmp_path) as reader:
        assert not reader.open(tmp_path)


def test_a_process_that_died_does_not_pass(quantized: QuantizeExample, tmp_path: Path) -> None:
    result = quantized(convolutional())
    assert isinstance(result.source, ProgramSource)
    samples = open_dataset(tmp_path / "dataset.safetensors", result.source.inputs, None)
    with second_process(tmp_path) as reader:
        reader._process.kill()
        reader._process.wait()
        assert not reader.open(tmp_path)
        assert not evaluate(result, samples, reader, lambda *_: None).ran
