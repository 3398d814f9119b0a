"""Which layer produces another one's input, and what stands between them that forbids another scale."""

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

from tests.networks import Example
from tests.uneven_networks import CHANNELS, FUNCTIONS, PAIRS, UNPLAIN, chain, example, pair
from tests.zeropoint.conftest import OpenExample
from zeropoint.graph.producers import Producer, producers

pytestmark = pytest.mark.sampled(8)

FORMS = pytest.mark.parametrize("decompose", [False, True], ids=["exported", "decomposed"])


@FORMS
@pytest.mark.parametrize("kind", PAIRS)
def test_every_pair_is_found(opened: OpenExample, kind: str, decompose: bool) -> None:
    averages = kind in ("average", "pooled", "mean")
    found = producers(opened(pair(kind), decompose=decompose))
    expected = {"second": Producer("first", averages=averages)}
    assert found == ({} if (kind, decompose) in UNPLAIN else expected)


@FORMS
@pytest.mark.parametrize("kind", ["linear", "conv2d", "flattened"])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_functions_that_keep_a_factor_are_passed(
    opened: OpenExample, kind: str, function: str, decompose: bool
) -> None:
    assert set(producers(opened(pair(kind, function), decompose=decompose))) == {"second"}


@FORMS
def test_a_chain_has_one_pair_less_than_layers(opened: OpenExample, decompose: bool) -> None:
    found = producers(opened(chain(), decompose=decompose))
    assert found == {"second": Producer("first"), "third": Producer("second")}


class Other(nn.Module):
    """Linears, with something in between or beside them."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, CHANNELS), nn.Linear(CHANNELS, CHANNELS)
        self.third = nn.Linear(CHANNELS, CHANNELS)
        self.what = what

    def forward(self, x: Tensor) -> object:
        y = self.first(x)
        match self.what:
            case "returned":
                return self.second(y), y
            case "added":
                return self.second(y) + y
            case "called twice":
                return self.second(self.second(y))
            case "two layers":
                return self.second(y) + self.third(y)
            case "read twice":
                return self.second(y) + self.second(torch.relu(y))
        return self.second(BETWEEN[self.what](y))


BETWEEN: Mapping[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "gelu": nn.functional.gelu,
    "relu6": nn.functional.relu6,
    "shifted": lambda y: torch.relu(y + 1),
    "squared": lambda y: y * y,
    "softmax": lambda y: y.softmax(-1),
    "normalized": lambda y: nn.functional.layer_norm(y, [CHANNELS]),
    "divided": lambda y: 1 / y,
    "mixed": lambda y: y.reshape(-1, 2, CHANNELS // 2).transpose(1, 2).reshape(-1, CHANNELS),
    "rolled": lambda y: y.roll(1, -1),
    "mask": lambda y: (y > 0).to(y.dtype),
    "threshold": lambda y: torch.where(y > 1, y, y * 0.5),
    "half": lambda y: y.half().float(),
    "clamped": lambda y: y.clamp(max=1),
    "summed": lambda y: y + y.flip(-1),
    "maximum over channels": lambda y: y - y.amax(-1, keepdim=True),
}


def other(what: str) -> Example:
    torch.manual_seed(0)
    return example(Other(what), [6])


@FORMS
@pytest.mark.parametrize("what", [*BETWEEN, "returned", "added", "called twice", "read twice", "two layers"])
def test_anything_else_forbids_it(opened: OpenExample, what: str, decompose: bool) -> None:
    assert producers(opened(other(what), decompose=decompose)) == {}
