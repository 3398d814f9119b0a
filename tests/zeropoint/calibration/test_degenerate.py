"""Samples and ranges from which no useful scale follows are told; honest samples are not."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from zeropoint import quantize
from zeropoint.calibration.degenerate import constant_samples, degenerate_ranges
from zeropoint.calibration.profile import Profile
from zeropoint.data.batches import ModelInputs
from zeropoint.data.calls import CallDataset, read_calls, read_inputs
from zeropoint.observers.statistics import Statistics

torch.manual_seed(0)
NOISE = torch.randn(8, 4)


@dataclass(frozen=True)
class Case:
    """Inputs by name, [samples, …] each."""

    tensors: dict[str, Tensor]

    def batches(self) -> CallDataset:
        """Return the samples in calls of two."""
        count = len(next(iter(self.tensors.values())))
        calls = [{n: t[i : i + 2] for n, t in self.tensors.items()} for i in range(0, count, 2)]
        return read_calls(calls, read_inputs, 100, 1)


CONSTANT = {
    "zeros": {"x": torch.zeros(8, 4)},
    "one value": {"x": torch.full((8, 4), 3.5)},
    "zeros in two inputs": {"x": torch.zeros(8, 4), "y": torch.zeros(8, 2, 3)},
    "zeros beside a mask": {"x": torch.zeros(8, 4), "attention_mask": torch.ones(8, 4, dtype=torch.int64)},
    "zeros beside padding": {"x": torch.zeros(8, 4), "attention_mask": torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0]] * 4)},
    "one token": {"ids": torch.zeros(8, 5, dtype=torch.int64)},
    "one sample eight times": {"x": NOISE[:1].expand(8, 4).clone()},
    "one text eight times": {"ids": torch.arange(5).expand(8, 5).clone(), "mask": torch.ones(8, 5)},
}
HONEST = {
    "noise": {"x": NOISE},
    "ones beside tokens": {"ids": torch.randint(0, 9, (8, 5)), "weight": torch.ones(8, 5)},
    "a mask of ones": {"ids": torch.randint(0, 9, (8, 5)), "attention_mask": torch.ones(8, 5)},
    "a constant temperature": {"ids": torch.randint(0, 9, (8, 5)), "temperature": torch.ones(8, 1)},
    "types of zero": {"x": NOISE, "types": torch.zeros(8, 4, dtype=torch.int64)},
    "a batch of zeros first": {"x": torch.cat([torch.zeros(4, 4), NOISE])},
    "single values that differ": {"x": NOISE[:, :1]},
    "a single sample": {"x": NOISE[:1]},
}


@pytest.mark.parametrize("name", CONSTANT)
def test_constant_samples_are_told(name: str) -> None:
    (warning,) = constant_samples(Case(CONSTANT[name]).batches())
    assert (warning.code, warning.level) == ("constant_samples", "warning")


@pytest.mark.parametrize("name", HONEST)
def test_samples_that_vary_where_it_matters_are_not_told(name: str) -> None:
    assert constant_samples(Case(HONEST[name]).batches()) == []


def test_reading_stops_where_samples_vary() -> None:
    read = []

    class Counted:
        count, batch_size = 100, 8

        def __len__(self) -> int:
            return 100

        def __iter__(self) -> Iterator[ModelInputs]:
            for number in range(100):
                read.append(number)
                yield ModelInputs([NOISE])

    assert constant_samples(Counted()) == []
    assert read == [0]


@pytest.mark.parametrize(
    ("low", "high", "flat"),
    [
        (0, 0, True),
        (5, 5, True),
        (-3, -3, True),
        (5, 5.01, True),
        (-5.01, -5, True),
        (5, 5.1, False),
        (0, 1e-30, False),
    ],
)
def test_a_range_of_no_width_names_its_layer(low: float, high: float, flat: bool) -> None:
    profile = Profile({"a": Statistics(8, low, high), "b": Statistics(8, -1, 1)}, 8, 1, 8)
    warnings = degenerate_ranges(profile, ["a", "b"])
    assert [warning.layers for warning in warnings] == ([["a"]] if flat else [])
    assert [warning.code for warning in warnings] == (["degenerate_range"] if flat else [])


class TwoBranches(nn.Module):
    """One layer for each input, and one for a constant of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.own = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        output: Tensor = self.left(x) + self.right(y) + self.own(torch.ones(4))
        return output


@pytest.mark.parametrize("program", [False, True])
def test_an_input_that_samples_leave_at_zero_is_told_and_a_constant_of_the_model_is_not(
    tmp_path: Path, program: bool
) -> None:
    module = TwoBranches().eval()
    data = [(torch.randn(8, 4), torch.zeros(8, 4)) for _ in range(6)]
    model: nn.Module | Path = module
    if program:
        torch.export.save(torch.export.export(module, data[0]), tmp_path / "m.pt2")
        model = tmp_path / "m.pt2"
    report = quantize(model, data, on_failure="ignore", progress=False).report
    assert report.verdict == "warned"
    assert [(warning.code, warning.layers) for warning in report.warnings] == [("degenerate_range", ["right"])]
