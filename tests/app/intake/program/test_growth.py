"""Sizes that are followed: never more than the real ones, and never less than what grows makes of them."""

import io
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from app.errors import Invalid
from app.intake.limits import Limits
from app.intake.program import growth
from app.intake.program.operators import allowed
from app.intake.program.read import read_program
from scripts.list_operators import pointwise
from tests import operator_samples, operators
from tests.effort import in_turn
from tests.factories import members_of, write_zip
from tests.honest_programs import HONEST

SMALL = Limits(tensor_bytes=2**30)


def exports() -> Iterator[Callable[[], ExportedProgram]]:
    """Yield what makes each program: many are left out, and an export takes long."""
    yield from (partial(_of_a_network, make) for make in HONEST.values())
    yield from (partial(_of_operators, texts) for texts in operators.groups())
    yield from (partial(_of_a_sample, key) for key in operator_samples.keys().values())


def _of_a_network(make: Callable[[], Any]) -> ExportedProgram:
    program: ExportedProgram = next(iter(make().programs()))
    return program


def _of_operators(texts: Any) -> ExportedProgram:
    return next(iter(operators.programs(texts)))


def _of_a_sample(key: str) -> ExportedProgram:
    return operator_samples.program(operator_samples.call_of(key))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_no_size_is_larger_than_the_real_one(tmp_path: Path) -> None:
    followed = set()
    for place, export in enumerate(exports()):
        if not in_turn(60, place):
            continue
        torch.export.save(export(), tmp_path / "model.pt2")
        document = read_program(tmp_path / "model.pt2", Limits()).document
        graph = document["graph_module"]["graph"]
        nodes, metas = graph["nodes"], graph["tensor_values"]
        for tensor in growth.follow(document):
            static = all("as_int" in size for size in metas[tensor.name]["sizes"])
            if tensor.made is not None and static:
                target = nodes[tensor.node]["target"]
                assert torch.Size(tensor.made).numel() <= torch.Size(tensor.declared).numel(), target
                followed.add(target)
    assert followed


def test_the_list_is_torchs_own() -> None:
    assert sorted(growth.pointwise()) == sorted(pointwise(allowed()))


GROW: dict[str, Callable[[Tensor], Tensor]] = {
    "cat": lambda x: torch.cat([x, x]),
    "cat of columns": lambda x: torch.cat([x, x], 1),
    "stack": lambda x: torch.stack([x, x]).reshape(-1, x.shape[1]),
    "repeat": lambda x: x.repeat(2, 1),
    "tile": lambda x: torch.tile(x, (2, 1)),
    "interleaved": lambda x: torch.repeat_interleave(x, 2, 0),
    "padded": lambda x: nn.functional.pad(x, (0, x.shape[1])),
    "expanded": lambda x: (x[None].expand(2, -1, -1) * 1.0).reshape(-1, x.shape[1]),
    "broadcast": lambda x: (x[None] + torch.zeros(2, 1, 1)).flatten(0, 1),
    "multiplied": lambda x: (x.reshape(-1, 1) @ torch.ones(1, 2)).reshape(-1, x.shape[1]),
    "looked up": lambda x: nn.functional.embedding(torch.zeros(2, x.shape[0], dtype=torch.long), x).flatten(0, 1),
    "selected": lambda x: x.index_select(0, torch.zeros(2 * x.shape[0], dtype=torch.long)),
}


class Doubles(nn.Module):
    """Doubles its input again and again, with something else between."""

    def __init__(self, grow: Callable[[Tensor], Tensor], times: int) -> None:
        super().__init__()
        self.layer, self.grow, self.times = nn.Linear(4, 4), grow, times

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        for _ in range(self.times):
            y = self.grow(y).relu().clone()
        return y.sum(0) if self.times else y


def told_small(archive: Path) -> Path:
    """Write the program again with every tensor that a node makes said to have 4 elements."""
    members = members_of(archive)
    name = next(name for name in members if name.endswith("models/model.json"))
    document: dict[str, Any] = json.loads(members[name])
    graph = document["graph_module"]["graph"]
    for node in graph["nodes"]:
        for output in node["outputs"]:
            meta = graph["tensor_values"][output["as_tensor"]["name"]]
            meta["sizes"] = [{"as_int": 1}] * len(meta["sizes"])
            meta["strides"] = [{"as_int": 1}] * len(meta["sizes"])
    return write_zip(archive, {**members, name: json.dumps(document).encode()})


def exported(grow: str, path: Path, *, dynamic: bool) -> Path:
    batch = {0: torch.export.Dim("batch", min=2, max=64)} if dynamic else None
    shapes = ({0: batch[0]},) if batch else None
    program = torch.export.export(Doubles(GROW[grow], 6), (torch.randn(4, 4),), dynamic_shapes=shapes)
    torch.export.save(program, path)
    return path


@pytest.mark.parametrize("grow", GROW)
def test_what_grows_is_followed_whatever_the_file_says(tmp_path: Path, grow: str) -> None:
    """Six doublings of 16 floats are 4 KiB: with a lower limit they are refused, and with a higher one not."""
    path = exported(grow, tmp_path / "model.pt2", dynamic=False)
    read_program(path, Limits(tensor_bytes=2**12))
    for file in (path, told_small(path)):
        with pytest.raises(Invalid, match="is a tensor of more than 4095 bytes"):
            read_program(file, Limits(tensor_bytes=2**12 - 1))


@pytest.mark.parametrize("grow", ["cat", "repeat"])
def test_a_symbolic_size_counts_with_the_least_that_it_can_be(tmp_path: Path, grow: str) -> None:
    path = exported(grow, tmp_path / "model.pt2", dynamic=True)
    with pytest.raises(Invalid, match="is a tensor of more than"):
        read_program(path, Limits(tensor_bytes=2**10))
    target = io.BytesIO()
    read_program(path, Limits(tensor_bytes=2**12)).write(target)
