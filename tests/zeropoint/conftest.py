from collections.abc import Callable
from pathlib import Path

import pytest

from tests.networks import Example
from zeropoint.data.dataset import open_dataset
from zeropoint.engine.plan import plan
from zeropoint.engine.quantize import quantize_source
from zeropoint.layers.result import Quantized
from zeropoint.model.source import ProgramSource
from zeropoint.schema.job import Phase
from zeropoint.schema.recipe import Recipe
from zeropoint.sources.program import open_uploaded_program

OpenExample = Callable[..., ProgramSource]
QuantizeExample = Callable[..., Quantized]


@pytest.fixture
def opened(tmp_path: Path) -> OpenExample:
    """Export a network, upload it, open it."""

    def open_example(example: Example, *, decompose: bool = False) -> ProgramSource:
        return open_uploaded_program(example.export(tmp_path / "model.pt2", decompose=decompose), "cpu")

    return open_example


@pytest.fixture
def quantized(tmp_path: Path, opened: OpenExample) -> QuantizeExample:
    """The same, quantized with a recipe on the network's own samples."""

    def quantize_example(example: Example, *, decompose: bool = False, **recipe: object) -> Quantized:
        source = opened(example, decompose=decompose)
        samples = open_dataset(example.save_dataset(tmp_path / "dataset.safetensors"), source.inputs, None)
        wishes = Recipe.model_validate(recipe)
        return quantize_source(source, wishes, plan(source, wishes, samples), _silent)

    return quantize_example


def _silent(phase: Phase, done: int, total: int) -> None:
    """A report that nobody reads."""
