"""A module is also written as a program, which runs without its class; where it can't be, the reason is told."""

import copy
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from tests.networks import Example, attention, audio, convolutional, counting, postnorm, prenorm, projections, residual
from zeropoint import load, quantize
from zeropoint.errors import InvalidModel
from zeropoint.metrics.sqnr import Noise

pytestmark = pytest.mark.filterwarnings("ignore::zeropoint.errors.QuantizationWarning")  # attention stays in float


NETWORKS = (convolutional, audio, attention, projections, counting, residual, prenorm, postnorm)
ALONE = """
import sys
import torch
from safetensors.torch import load_file, save_file
from torch.utils._pytree import tree_leaves
from zeropoint import load

for folder in sys.argv[1:]:
    inputs = load_file(f"{folder}/inputs.safetensors")
    with torch.no_grad():
        outputs = tree_leaves(load(folder)(*inputs.values()))
    save_file({str(i): value.contiguous() for i, value in enumerate(outputs)}, f"{folder}/outputs.safetensors")
"""


def calls(example: Example) -> list[tuple[Tensor, ...]]:
    rows = len(next(iter(example.dataset.values())))
    return [tuple(t[first : first + 2] for t in example.dataset.values()) for first in range(0, rows, 2)]


def test_another_process_runs_it_without_the_class_on_batches_of_other_sizes(tmp_path: Path) -> None:
    expected, limits = {}, {}
    for make in NETWORKS:
        example, folder = make(), tmp_path / make.__name__
        q = quantize(example.module, calls(example))
        assert not q.no_program
        assert q.report.loaded[-1].name == "model.pt2"
        q.save(folder)
        batch = {str(i): tensor[:5].contiguous() for i, tensor in enumerate(example.dataset.values())}
        save_file(batch, folder / "inputs.safetensors")
        with torch.no_grad():
            expected[folder] = tree_leaves(load(folder, model=make().module)(*batch.values()))
        limits[folder] = q.report.summary.sqnr_db
    command = [sys.executable, "-W", "error", "-W", "ignore::FutureWarning", "-c", ALONE, *map(str, expected)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    for folder, outputs in expected.items():
        noise, found = Noise(), load_file(folder / "outputs.safetensors")
        for position, output in enumerate(outputs):
            assert found[str(position)].shape == output.shape
            if output.is_floating_point():
                noise.add(output, found[str(position)])
        assert noise.exact or (noise.db or 0) > (limits[folder] or 50) + 10


def test_lengths_that_differ_between_calls_stay_dynamic(tmp_path: Path) -> None:
    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(20, 8), nn.Linear(8, 3)

        def forward(self, ids: Tensor, *, scale: Tensor) -> Tensor:
            return self.head(self.embed(ids).mean(1)) * scale  # type: ignore[no-any-return]

    data = [{"ids": torch.randint(0, 20, (4, n)), "scale": torch.rand(4, 1)} for n in (5, 9, 7, 6)]
    q = quantize(Mean(), data)
    assert not q.no_program
    q.save(tmp_path)
    again = load(tmp_path)
    for rows, length in ((1, 3), (6, 11)):
        call = {"ids": torch.randint(0, 20, (rows, length)), "scale": torch.rand(rows, 1)}
        assert torch.allclose(again(**call), q(**call), atol=1e-5)


def test_further_arguments_are_exported_too_and_further_keywords_are_told(tmp_path: Path) -> None:
    class Sums(Base):
        def forward(self, x: Tensor, *others: Tensor, **named: Tensor) -> Tensor:
            return self.inner(x + sum(others) + sum(named.values()))  # type: ignore[no-any-return]

    first, *_ = rows = [torch.randn(4, 8) for _ in range(8)]
    q = quantize(Sums(), [(row, row, row) for row in rows])
    q.save(tmp_path)
    assert torch.allclose(load(tmp_path)(first, first, first), q(first, first, first), atol=1e-5)
    assert "'more' goes into **kwargs" in quantize(Sums(), [{"x": row, "more": row} for row in rows]).no_program
    assert not quantize(Sums(), [{"x": row, "more": row} for row in rows], model_inputs="x").no_program


Named = namedtuple("Named", "scores")


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Linear(8, 8)


class Branches(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) if x.sum() > 0 else self.inner(-x)  # type: ignore[no-any-return]


class OwnClass(Base):
    def forward(self, x: Tensor) -> Any:
        return Named(self.inner(x))


class Otherwise(Base):
    """Computes something else when it is exported, which only running both can find."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x)
        return y * 1.5 if torch.compiler.is_exporting() else y


class ReadsNumpy(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + float(x.detach().numpy().max())  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (Branches, "torch.export does not take it"),
        (ReadsNumpy, "torch.export does not take it"),
        (OwnClass, "Named|namedtuple"),
        (Otherwise, "does not compute what the module computes"),
    ],
)
def test_without_a_program_the_result_stands_and_says_why(tmp_path: Path, kind: type[Base], word: str) -> None:
    q = quantize(kind(), [torch.randn(4, 8) for _ in range(8)])
    assert q.report.verdict == "passed"

    assert any(part in q.no_program for part in word.split("|"))
    assert q.no_program in repr(q)
    q.save(tmp_path)
    assert not (tmp_path / "model.pt2").exists()
    with pytest.raises(InvalidModel) as refused:
        load(tmp_path)
    assert refused.value.code == "float_module_required"


def test_it_is_switched_off_and_needs_samples() -> None:
    off = quantize(Plain(), [torch.randn(4, 8)] * 8, export=False)
    assert ("model.pt2" in off.files, off.no_program) == (False, "it was not asked for (export=False)")
    assert "no samples" in quantize(Plain(), recipe="int8-weight-only").no_program


class Plain(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)  # type: ignore[no-any-return]


class Remembers(Base):
    """Keeps its last input and counts its calls: an export runs `forward` on tensors that hold nothing."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        self.calls += 1
        return self.inner(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("training", [True, False])
def test_the_callers_module_is_not_touched_by_the_export(training: bool) -> None:
    model = Remembers().train(training)
    before = copy.deepcopy(model.state_dict())
    q = quantize(model, [torch.randn(4, 8) for _ in range(8)])
    assert model.training is training
    assert model.seen == []
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(type(tensor) in (Tensor, nn.Parameter) for tensor in model.state_dict().values())
    first = q(torch.ones(2, 8))
    assert type(first) is Tensor
    assert float(q.module.calls) == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("recipe", ["int8", "int8-weight-only", {"weights": {"dtype": "float8_e4m3"}}, "float16"])
def test_every_kind_of_result_has_its_program(tmp_path: Path, recipe: str | Mapping[str, object]) -> None:
    make: Callable[[], Example] = residual
    example = make()
    q = quantize(example.module, calls(example), recipe=recipe)
    assert not q.no_program
    q.save(tmp_path)
    call = calls(example)[0]
    noise = Noise()
    for left, right in zip(tree_leaves(q(*call)), tree_leaves(load(tmp_path)(*call)), strict=True):
        noise.add(left, right)
    assert noise.exact or (noise.db or 0) > 40
