"""Regions without gradients, and of an autocast that does nothing, are inlined; the program computes the same."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from app.errors import Invalid
from app.intake.limits import Limits
from app.intake.program.inlining import inline_regions
from app.intake.program.read import read_program

BATCH = torch.export.Dim("batch", min=2, max=64)
pytestmark = pytest.mark.filterwarnings("ignore")  # torch says that an autocast on another device is disabled here


class Regions(nn.Module):
    """Regions in a module and in one inside of it: nested, empty, with several results, sizes and weights."""

    turns: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner = nn.Linear(16, 16), Inner()
        self.register_buffer("turns", torch.randn(16))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            size = x.shape[0]  # no operator
        with torch.no_grad():
            angle = (x * self.turns).cos()
        with torch.no_grad():
            angle = angle * size
            with torch.enable_grad():
                angle = angle + 1
        return self.inner(self.first(x) * angle), angle, x


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            left, right = x.chunk(2, -1)
            y = self.linear(x)
        with torch.autocast("cpu", enabled=False):
            y = y.float() * 2
        with torch.autocast("cuda", dtype=torch.float16):
            y = y + 1
        result: Tensor = left.sum() + right.sum() + y
        return result


class Twice(nn.Module):
    """Values that leave a region twice, or as they came in."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            y = x.exp()
            z = y
        with torch.inference_mode(False), torch.no_grad():
            a, b = (y + z).cos(), y
        return a, b + x, a + b


class Changing(nn.Module):
    """A buffer that is written without gradients."""

    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            count = self.count + 1
        self.count = count
        return x + count


def fresh(module: nn.Module, path: Path) -> tuple[torch.export.ExportedProgram, torch.export.ExportedProgram, Any]:
    program = torch.export.export(module.eval(), (torch.randn(4, 16),), dynamic_shapes=({0: BATCH},))
    torch.export.save(program, path)
    checked, target = read_program(path, Limits()), io.BytesIO()
    checked.write(target)
    return program, torch.export.load(io.BytesIO(target.getvalue())), checked


@pytest.mark.parametrize("make", [Regions, Twice, Changing])
def test_a_program_with_regions_computes_the_same(tmp_path: Path, make: Callable[[], nn.Module]) -> None:
    program, again, checked = fresh(make(), tmp_path / "model.pt2")
    x = torch.randn(7, 16)
    for one, other in zip(*map(torch.utils._pytree.tree_leaves, (program.module()(x), again.module()(x))), strict=True):
        assert torch.equal(one, other)
    assert not any("higher_order" in node["target"] for node in checked.document["graph_module"]["graph"]["nodes"])


def test_layers_inside_of_a_region_are_listed(tmp_path: Path) -> None:
    _, _, checked = fresh(Regions(), tmp_path / "model.pt2")
    assert {(layer.name, layer.type) for layer in checked.facts.layers} == {
        ("first", "Linear"),
        ("inner.linear", "Linear"),
    }


class Odd(nn.Module):
    """An operator of which nobody tried what an autocast does to it."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return torch.sort(x, stable=True, dim=1)[0].nonzero().float()


def test_an_autocast_around_an_operator_without_a_policy_is_refused_in_these_words(tmp_path: Path) -> None:
    torch.export.save(torch.export.export(Odd(), (torch.randn(4, 16),)), tmp_path / "model.pt2")
    with pytest.raises(Invalid) as refusal:
        read_program(tmp_path / "model.pt2", Limits())
    assert (
        "changes types as it runs, under autocast, and what it does to torch.ops.aten.nonzero.default"
        in refusal.value.detail
    )
    assert "without autocast" in refusal.value.remedy


@pytest.mark.parametrize("odd", [None, [], 1, {}, {"graph_module": {"graph": {"nodes": [1]}}}, {"graph_module": 3}])
def test_what_is_no_program_stays_as_it_is(odd: object) -> None:
    assert inline_regions(odd) is odd


REGION = {
    "target": "torch.ops.higher_order.wrap_with_set_grad_enabled",
    "inputs": [
        {"name": "", "arg": {"as_bool": False}},
        {"name": "", "arg": {"as_graph": {"name": "g", "graph": {"inputs": [], "outputs": [], "nodes": []}}}},
        {"name": "", "arg": {"as_tensor": {"name": "one too many"}}},
    ],
    "outputs": [],
}


def test_a_region_whose_arguments_do_not_fit_stays_and_is_refused() -> None:
    program = {"graph_module": {"graph": {"nodes": [REGION], "outputs": []}, "signature": {"output_specs": []}}}
    assert inline_regions(program) is program
