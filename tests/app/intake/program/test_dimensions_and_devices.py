"""Dimensions that are computed from others, and programs that were exported on another device."""

import io
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim as Dynamic

from app.errors import Invalid
from app.intake.facts import Dim
from app.intake.limits import Limits
from app.intake.program.read import read_program
from app.intake.program.symbols import bounds_of
from tests.factories import fresh_of
from tests.honest_archive import honest_members
from tests.upload_archives import PROGRAM, WEIGHTS, write


class Halved(nn.Module):
    """Convolutions that halve a length and double it again."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv1d(2, 4, 4, 2, 1), nn.ConvTranspose1d(4, 2, 4, 2, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        result: Tensor = self.up(self.down(x)) + y[:, :, 1:]
        return result


def test_dimensions_that_are_computed_from_others_have_bounds(tmp_path: Path) -> None:
    quarter, batch = Dynamic("quarter", min=2, max=100), Dynamic("batch", min=1, max=32)
    shapes = ({0: batch, 2: 4 * quarter}, {0: batch, 2: 4 * quarter + 1})
    program = torch.export.export(
        Halved().eval(), (torch.randn(2, 2, 16), torch.randn(2, 2, 17)), dynamic_shapes=shapes
    )
    torch.export.save(program, tmp_path / "model.pt2")
    x, y = read_program(tmp_path / "model.pt2", Limits()).facts.inputs
    assert (x.shape, y.shape) == ((Dim(1, 32), 2, Dim(8, 400)), (Dim(1, 32), 2, Dim(9, 401)))
    again = torch.export.load(io.BytesIO(fresh_of(tmp_path / "model.pt2"))).module()
    given = torch.randn(3, 2, 24), torch.randn(3, 2, 25)
    assert torch.equal(again(*given), program.module()(*given))


SIZE = "Symbol('s1', positive=True, integer=True)"


@pytest.mark.parametrize(
    ("text", "bounds"),
    [
        (SIZE, (2, 9)),
        (f"Mul(Integer(4), {SIZE})", (8, 36)),
        (f"Add(Mul(Integer(2), {SIZE}), Integer(-1))", (3, 17)),
        (f"Mul(Integer(-1), {SIZE})", (None, None)),
        (f"FloorDiv({SIZE}, Integer(2))", (None, None)),
        (f"Mul({SIZE}, Symbol('s2'))", (4, None)),
        ("Symbol('s3')", (None, None)),
    ],
)
def test_bounds_of_expressions(text: str, bounds: tuple[int | None, int | None]) -> None:
    assert bounds_of(text, {"s1": (2, 9), "s2": (2, None)}) == bounds


@pytest.mark.parametrize("name", ["__import__('os')", "s1;x", "s1\n", "x" * 300])
def test_a_range_of_something_else_is_refused(tmp_path: Path, name: str) -> None:
    members = honest_members()
    document = json.loads(members[PROGRAM])
    document["range_constraints"][name] = {"min_val": 1, "max_val": 2}
    path = write(members | {PROGRAM: json.dumps(document).encode()}, tmp_path / "model.pt2")
    with pytest.raises(Invalid, match="range_constraints"):
        read_program(path, Limits())


@pytest.mark.parametrize("device", [{"type": "cuda", "index": 0}, {"type": "cuda", "index": None}, {"type": "mps"}])
def test_a_program_of_another_device_becomes_one_of_the_cpu(tmp_path: Path, device: dict[str, object]) -> None:
    members, honest = honest_members(), b'{"type": "cpu", "index": null}'
    changed = {name: members[name].replace(honest, json.dumps(device).encode()) for name in (PROGRAM, WEIGHTS)}
    assert changed[PROGRAM] != members[PROGRAM]
    path = write(members | changed, tmp_path / "model.pt2")
    assert fresh_of(path) == fresh_of(write(members, tmp_path / "honest.pt2"))
