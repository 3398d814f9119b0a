"""Where a convolution's values leave it, and what calibration finds there."""

from pathlib import Path

import pytest
import torch

from tests.networks import Example, convolutional, projections, residual
from tests.zeropoint.conftest import OpenExample
from zeropoint.calibration.collect import Wanted, collect, fused_output_name
from zeropoint.data.dataset import open_dataset
from zeropoint.model.source import ProgramSource


def ranges(source: ProgramSource, example: Example, folder: Path) -> dict[str, tuple[float, float]]:
    samples = open_dataset(example.save_dataset(folder / "dataset.safetensors"), source.inputs, None)
    profile = collect(source, source.layers, samples, lambda *_: None, Wanted(outputs=True))
    return {name: (found.minimum, found.maximum) for name, found in profile.layers.items()}


@pytest.mark.parametrize("decompose", [False, True], ids=["exported", "decomposed"])
def test_it_lies_behind_normalization_and_activation(opened: OpenExample, tmp_path: Path, decompose: bool) -> None:
    example = residual()
    found = ranges(opened(example, decompose=decompose), example, tmp_path)
    module, images = example.module.eval(), example.dataset["images"]
    with torch.no_grad():
        stem = module.get_submodule("stem")(images)
        block = module.get_submodule("block")(stem)
    assert found["stem.0:output"] == pytest.approx((0, stem.max().item()))
    assert found["block.0:output"] == pytest.approx((0, block.max().item()))


def test_a_value_that_something_else_reads_is_not_passed_over(opened: OpenExample, tmp_path: Path) -> None:
    """`features.3` of the network has neither normalization nor activation behind it."""
    example = convolutional()
    found = ranges(opened(example), example, tmp_path)
    with torch.no_grad():
        expected = example.module.eval().get_submodule("features")(example.dataset["x"])
    assert found["features.3:output"] == pytest.approx((expected.min().item(), expected.max().item()))


def test_only_convolutions_have_one(opened: OpenExample, tmp_path: Path) -> None:
    example = projections()
    source = opened(example)
    assert [layer.fused_output for layer in source.layers] == [None, None]
    assert set(ranges(source, example, tmp_path)) == {"query", "key"}


def test_outlets_are_watched_only_when_they_are_wanted(opened: OpenExample, tmp_path: Path) -> None:
    example = residual()
    source = opened(example)
    samples = open_dataset(example.save_dataset(tmp_path / "dataset.safetensors"), source.inputs, None)
    profile = collect(source, source.layers, samples, lambda *_: None, Wanted())
    assert not {fused_output_name(layer.name) for layer in source.layers} & set(profile.layers)
