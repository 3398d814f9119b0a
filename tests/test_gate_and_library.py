"""What the API says of an upload, read without torch, is what the library finds in it."""

from pathlib import Path

import pytest

from app.intake.facts import Dim
from app.intake.limits import Limits
from app.intake.program.read import read_program
from tests.networks import Example, attention, audio, convolutional, counting, projections, recurrent
from zeropoint.data import batches
from zeropoint.sources.program import open_uploaded_program

EXAMPLES = [convolutional, audio, attention, counting, projections, recurrent]


@pytest.mark.sampled(9)
@pytest.mark.parametrize("decompose", [False, True], ids=["exported", "decomposed"])
@pytest.mark.parametrize("make", EXAMPLES, ids=lambda make: make.__name__)
def test_layers_and_inputs_are_the_same_on_both_sides(tmp_path: Path, make: object, decompose: bool) -> None:
    example: Example = make()  # type: ignore[operator]
    path = example.export(tmp_path / "model.pt2", decompose=decompose)
    told, source = read_program(path, Limits()).facts, open_uploaded_program(path, "cpu")
    live = {(layer.name, layer.type) for layer in source.layers if layer.reason != "dead_code"}
    everything = {(layer.name, layer.type) for layer in source.layers}
    assert live <= {(layer.name, layer.type) for layer in told.layers} <= everything
    assert [(tensor.name, tensor.dtype, tensor.shape) for tensor in told.inputs] == [
        (spec.name, str(spec.dtype).removeprefix("torch."), tuple(extent(size) for size in spec.shape))
        for spec in source.inputs
    ]


def extent(size: int | batches.Dim) -> int | Dim:
    return size if isinstance(size, int) else Dim(size.minimum, size.maximum)
