"""Which results of convolutions can stay integers, on whose grid, and whether that rounds anything once more."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.networks import BATCH, Example
from tests.zeropoint.conftest import OpenExample
from zeropoint.graph.integer_outputs import IntegerOutput, integer_outputs

Between = Callable[[Tensor], Tensor]


class Two(nn.Module):
    """Two convolutions, what lies between them, and whether a sum reads the same value as the second."""

    def __init__(self, between: Between, *, summed: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.between, self.summed = between, summed

    def forward(self, x: Tensor) -> Tensor:
        values = self.between(self.first(x))
        output: Tensor = self.second(values)
        return output + values if self.summed else output


def pooled(values: Tensor) -> Tensor:
    return torch.max_pool2d(torch.relu(values), 2)


def padded(values: Tensor) -> Tensor:
    return nn.functional.pad(torch.relu(values), (1, 1))


def averaged(values: Tensor) -> Tensor:
    return nn.functional.avg_pool2d(torch.relu(values), 2)


@pytest.mark.parametrize(
    ("between", "summed", "expected"),
    [
        (torch.relu, False, IntegerOutput("second", read_alone=True, positions=64)),
        (pooled, False, IntegerOutput("second", read_alone=True, positions=64)),
        (padded, False, IntegerOutput("second", read_alone=True, positions=64)),
        (averaged, False, IntegerOutput(None, read_alone=False, positions=64)),
        (nn.Identity(), False, None),
        (torch.sigmoid, False, None),
        (torch.relu, True, None),
    ],
)
def test_the_reader_and_whether_it_is_alone(
    opened: OpenExample, between: Between, summed: bool, expected: IntegerOutput | None
) -> None:
    x = torch.randn(4, 1, 8, 8)
    source = opened(Example(Two(between, summed=summed), (x[:2],), {"x": {0: BATCH}}, {"x": x}))
    assert integer_outputs(source.calls, ["first", "second"]).get("first") == expected


class Skip(nn.Module):
    """A sum that a third convolution reads carries a value on that the second convolution reads too."""

    def __init__(self, *, rectified: bool) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(c, 4, 3, padding=1) for c in (1, 4, 4))
        self.rectified = rectified

    def forward(self, x: Tensor) -> Tensor:
        values = self.first(x)
        values = values.relu() if self.rectified else values
        output: Tensor = self.third(self.second(values) + values)
        return output


def test_a_sum_beside_a_layer_rounds_rectified_values_and_carries_others_on_in_float(opened: OpenExample) -> None:
    x = torch.randn(4, 1, 8, 8)

    def found(*, rectified: bool, quantized: tuple[str, ...] = ("first", "second", "third")) -> object:
        source = opened(Example(Skip(rectified=rectified), (x[:2],), {"x": {0: BATCH}}, {"x": x}))
        return integer_outputs(source.calls, quantized)

    branch = {"second": IntegerOutput(None, read_alone=False, positions=64)}
    assert found(rectified=True) == {"first": IntegerOutput("second", read_alone=False, positions=64), **branch}
    assert found(rectified=False) == branch
    assert found(rectified=True, quantized=("first", "second")) == {}
