from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.job_program import shared_second_process
from tests.networks import Example, residual
from zeropoint.data.dataset import open_dataset
from zeropoint.engine.plan import plan
from zeropoint.engine.quantize import quantize_source
from zeropoint.entrypoints import api, validate
from zeropoint.formats import write_formats
from zeropoint.layers.result import Quantized
from zeropoint.model.source import ProgramSource
from zeropoint.schema.job import Phase
from zeropoint.schema.recipe import Recipe
from zeropoint.search import integer_outputs
from zeropoint.sources.program import open_uploaded_program

OpenExample = Callable[..., ProgramSource]
QuantizeExample = Callable[..., Quantized]
PROGRAM_FORMATS = ("safetensors", "pt2", "onnx")


@pytest.fixture(autouse=True, scope="session")
def _one_second_process() -> Iterator[None]:
    """Let all calls of the library share a second process; tests/zeropoint/loading/test_loadback.py starts others."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (api, validate):
            patch.setattr(module, "second_process", shared_second_process)
        yield


@pytest.fixture
def opened(tmp_path: Path) -> OpenExample:
    """Export a network, upload it, open it."""

    def open_example(example: Example, *, decompose: bool = False) -> ProgramSource:
        return open_uploaded_program(example.export(tmp_path / "model.pt2", decompose=decompose), "cpu")

    return open_example


@pytest.fixture
def quantized(tmp_path: Path, opened: OpenExample) -> QuantizeExample:
    """The same, quantized with a recipe on the network's own samples; values are rounded to nearest."""

    def quantize_example(example: Example, *, decompose: bool = False, **recipe: object) -> Quantized:
        return _quantize(opened(example, decompose=decompose), example, tmp_path, {"target_isa": "vnni", **recipe})

    return quantize_example


@dataclass(frozen=True)
class SavedResult:
    """A result, and the folder where it lies in every format of a program, with `dataset.safetensors` beside it."""

    result: Quantized
    folder: Path


@pytest.fixture(scope="session")
def static_residual(tmp_path_factory: pytest.TempPathFactory) -> SavedResult:
    """`residual` in static int8, saved once a process: to export ONNX takes seconds. Nobody writes there.

    Every result that can be is an integer, whatever that costs.
    """
    folder, example = tmp_path_factory.mktemp("residual"), residual()
    source = open_uploaded_program(example.export(folder / "uploaded.pt2"), "cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(integer_outputs, "MOST_LOST_DB", 40.0)
        result = _quantize(source, example, folder, {"formats": PROGRAM_FORMATS})
    list(write_formats(result, folder, PROGRAM_FORMATS))
    return SavedResult(result, folder)


def _quantize(source: ProgramSource, example: Example, folder: Path, recipe: Mapping[str, object]) -> Quantized:
    samples = open_dataset(example.save_dataset(folder / "dataset.safetensors"), source.inputs, None)
    wishes = Recipe.model_validate(recipe)
    return quantize_source(source, wishes, plan(source, wishes, samples), _silent)


def _silent(phase: Phase, done: int, total: int) -> None:
    """A report that nobody reads."""
