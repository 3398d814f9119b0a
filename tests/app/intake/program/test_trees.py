"""The nesting of outputs: classes that only their author has become dicts, and everything else stays what it is."""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from app.intake.parsing.typed import Wrong
from app.intake.program.trees import input_spec, output_spec
from tests.factories import fresh_of

LEAF: dict[str, Any] = {"type": None, "context": None, "children_spec": []}


@dataclass
class Found:
    scores: Tensor
    boxes: list[Tensor]
    masks: Tensor | None = None


torch.export.register_dataclass(Found, serialized_type_name="tests.Found")


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> tuple[Found, Tensor]:
        y = self.linear(x)
        return Found(y, [x, y + 1]), x * 2


def test_a_dataclass_among_the_outputs_becomes_a_dict(tmp_path: Path) -> None:
    module, x = Detector().eval(), torch.randn(3, 4)
    torch.export.save(torch.export.export(module, (x,)), tmp_path / "model.pt2")
    (tmp_path / "fresh.pt2").write_bytes(fresh := fresh_of(tmp_path / "model.pt2"))
    assert b"tests.Found" not in fresh
    assert fresh_of(tmp_path / "fresh.pt2") == fresh
    found, twice = torch.export.load(io.BytesIO(fresh)).module()(x)
    expected, _ = module(x)
    assert found.keys() == {"scores", "boxes"}  # without what is None
    assert torch.equal(found["scores"], expected.scores)
    assert all(torch.equal(*pair) for pair in zip(found["boxes"], expected.boxes, strict=True))
    assert torch.equal(twice, x * 2)


@pytest.mark.parametrize(
    ("kind", "context"),
    [
        ("a.Found", "null"),
        ("a.Found", '["x"]'),
        ("a.Found", '[["x"]]'),
        ("a.Found", '[["x"], [], []]'),
        ("a.Found", '[["x"], "y"]'),
        ("a.Found", '[["x", "y"], []]'),
        ("a.Found", '[["x\'"], []]'),
        ("builtins.Found", '[["x"], []]'),
        ("collections.Found", '[["x"], []]'),
        ("a Found", '[["x"], []]'),
        ("a.Found", [["x"], []]),
    ],
)
def test_what_is_not_quite_a_dataclass_is_refused(kind: str, context: object) -> None:
    with pytest.raises(Wrong, match=r"nests in something other|keys are not distinct names"):
        output_spec(json.dumps([1, {"type": kind, "context": context, "children_spec": [LEAF]}]))


def test_inputs_are_in_no_dataclass() -> None:
    inner = {"type": "a.Found", "context": '[["x"], []]', "children_spec": [LEAF]}
    root = {"type": "builtins.tuple", "context": "null", "children_spec": [inner]}
    assert "builtins.dict" in output_spec(json.dumps([1, inner]))
    with pytest.raises(Wrong, match="nests in something other"):
        input_spec(json.dumps([1, root]))
