"""Adapters are merged on request: the same outputs up to rounding, and one weight to quantize."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from tests.spelled_networks import IN, OUT, Inner, exported, inputs, weight
from zeropoint import quantize
from zeropoint.sources.program import program_source

RANK = 2


class Functional(nn.Linear):
    """In the style of loralib: one module owns W, A and B."""

    def __init__(self) -> None:
        super().__init__(IN, OUT)
        self.lora_A = weight(RANK, IN, seed=1)
        self.lora_B = weight(OUT, RANK, seed=2)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias) + linear(linear(x, self.lora_A), self.lora_B) * 0.5


class Modules(nn.Module):
    """In the style of peft: modules, dropout, and two adapters."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(IN, OUT)
        self.dropout = nn.Dropout(0.1)
        self.down = nn.ModuleList(nn.Linear(IN, RANK, bias=False) for _ in range(2))
        self.up = nn.ModuleList(nn.Linear(RANK, OUT, bias=False) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.base(x)
        for down, up in zip(self.down, self.up, strict=True):
            result = result + up(down(self.dropout(x))) * 2.0
        return result


class Products(nn.Module):
    """Weights as [in, out]."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.a, self.b = weight(IN, OUT), weight(IN, RANK, seed=1), weight(RANK, OUT, seed=2)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.w + (x @ self.a) @ self.b


class Gated(Functional):
    """Something else reads what the adapter computes."""

    def forward(self, x: Tensor) -> Tensor:
        adapted = linear(linear(x, self.lora_A), self.lora_B)
        return linear(x, self.weight, self.bias) + adapted + adapted.tanh()


@pytest.mark.sampled(5)
@pytest.mark.parametrize("decompose", [False, True], ids=["exported", "decomposed"])
@pytest.mark.parametrize("make", [Functional, Modules, Products])
def test_adapters_become_part_of_the_weight(make: type[nn.Module], decompose: bool) -> None:
    program = exported(Inner(make()), decompose=decompose)
    source = program_source(program, merge_lora=True)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(inputs(3)), source.run([inputs(3)])[0])
    assert len([layer for layer in source.layers if layer.module is not None]) == 2
    assert {layer.reason for layer in source.layers if layer.module is None} <= {"folded"}
    result = quantize(program, [(inputs(4, seed),) for seed in range(8)], recipe={"merge_lora": True})
    assert result.report.verdict == "passed"
    assert len(result.report.layers) == 2
    original = sum(tensor.nbytes for tensor in program.state_dict.values())
    assert result.report.summary.original_bytes == original


def test_nothing_is_merged_unless_asked() -> None:
    source = program_source(exported(Inner(Functional())))
    assert [layer.name for layer in source.layers] == ["first", "mix", "mix.lora_A", "mix.lora_B"]


def test_an_adapter_that_something_else_reads_stays() -> None:
    program = exported(Inner(Gated()))
    source = program_source(program, merge_lora=True)
    with torch.no_grad():
        assert torch.equal(program.module()(inputs(3)), source.run([inputs(3)])[0])  # type: ignore[arg-type]
    assert len([layer for layer in source.layers if layer.module is not None]) == 4
