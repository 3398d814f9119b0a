"""Which normalizations can carry the factors of the layers behind them."""

import pytest
import torch
from torch import Tensor, nn

from tests.networks import BATCH, Example, attention, postnorm, prenorm
from tests.zeropoint.conftest import OpenExample
from zeropoint.graph.norm_mapping import norm_mappings

BEFORE = {"query": "norm", "key": "norm", "value": "norm", "up": "last_norm"}


class Rms(nn.Module):
    """The normalization of a llama, in operators of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


def varied(norm: nn.Module | None = None, *, leak: bool = False, tied: bool = False, plain: bool = False) -> Example:
    """A block that normalizes first, with another normalization, or with something else that reads it or its weight."""
    example = prenorm()
    block = example.module
    if norm is not None:
        block.norm = norm
    if plain:
        block.norm = nn.LayerNorm(8, elementwise_affine=False)
    return Example(_Varied(block, leak=leak, tied=tied), example.inputs, ({0: BATCH},), example.dataset)


class _Varied(nn.Module):
    def __init__(self, block: nn.Module, *, leak: bool, tied: bool) -> None:
        super().__init__()
        self.block, self.leak, self.tied = block, leak, tied

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        normal = self.block.get_submodule("norm")(x)
        y = self.block.get_submodule("query")(normal)
        if self.tied:
            y = y + self.block.get_parameter("norm.weight")
        return y, normal if self.leak else y


@pytest.mark.parametrize("decompose", [False, True], ids=["exported", "decomposed"])
def test_a_block_that_normalizes_first_has_them(opened: OpenExample, decompose: bool) -> None:
    assert norm_mappings(opened(prenorm(), decompose=decompose)) == BEFORE


@pytest.mark.sampled(3)
@pytest.mark.parametrize("decompose", [False, True], ids=["exported", "decomposed"])
@pytest.mark.parametrize("make", [postnorm, attention], ids=lambda make: make.__name__)
def test_sums_that_go_on_have_none(opened: OpenExample, make: object, decompose: bool) -> None:
    assert norm_mappings(opened(make(), decompose=decompose)) == {}  # type: ignore[operator]


@pytest.mark.parametrize("norm", [nn.RMSNorm(8), Rms()], ids=["operator", "by hand"])
def test_root_mean_squares_are_normalizations_too(opened: OpenExample, norm: nn.Module) -> None:
    assert norm_mappings(opened(varied(norm))) == {"block.query": "block.norm"}


@pytest.mark.parametrize("what", ["leak", "tied", "plain"])
def test_another_reader_or_no_weight_forbids_it(opened: OpenExample, what: str) -> None:
    assert norm_mappings(opened(varied())) == {"block.query": "block.norm"}
    assert norm_mappings(opened(varied(**{what: True}))) == {}  # type: ignore[arg-type]
