"""A recipe whose algorithms are all dropped is as good as one without: no sample is kept from its ranges."""

from typing import ClassVar

import pytest
import torch
from torch import nn

from zeropoint import quantize
from zeropoint.schema.report import Report

SAMPLES = 64


def report(recipe: object, *, outlier: bool) -> Report:
    """The report of a network; the last of its calibration samples may have the widest range."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))
    samples = torch.rand(SAMPLES, 16)
    if outlier:
        samples[40:48] *= 4
        samples[48:] *= 4
    return quantize(network, list(samples[:, None]), recipe=recipe, export=False, on_failure="ignore").report  # type: ignore[arg-type]


IN_VAIN = {"algorithms": [{"kind": "fold_normalization"}, {"kind": "awq"}]}


@pytest.mark.parametrize("outlier", [False, True])
def test_algorithms_that_are_dropped_cost_no_sample(outlier: bool) -> None:
    plain, tried = report({}, outlier=outlier), report(IN_VAIN, outlier=outlier)
    assert not any(step.kept for step in tried.algorithms)
    assert tried.calibration.samples == plain.calibration.samples == 48
    assert (plain.calibration.passes, tried.calibration.passes) == (1, 2)
    ranges = [{layer.name: (layer.activation, layer.output_sqnr_db) for layer in one.layers} for one in (tried, plain)]
    assert ranges[0] == ranges[1]
    assert tried.summary == plain.summary


def test_algorithms_that_are_kept_stay_with_the_samples_that_they_were_judged_by() -> None:
    changed = report({"algorithms": [{"kind": "gptq"}]}, outlier=False)
    assert [step.kept for step in changed.algorithms] == [True]
    assert (changed.calibration.samples, changed.calibration.passes) == (36, 1)


class Counting(nn.Module):
    """A network with a layer that reads a constant; it counts passes over noise, as the samples are all positive."""

    noise: ClassVar[list[bool]] = []

    def __init__(self, layer: type[nn.Linear] | type[nn.Conv1d]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = layer(8, 8) if layer is nn.Linear else nn.Conv1d(8, 8, 1)
        self.second = layer(8, 8) if layer is nn.Linear else nn.Conv1d(8, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.noise.append(bool((x < 0).any()))
        hidden = self.first(x)
        out: torch.Tensor = hidden + self.second(torch.zeros_like(hidden))
        return out


@pytest.mark.parametrize("layer", [nn.Linear, nn.Conv1d])
@pytest.mark.parametrize("kinds", [[], ["awq"], ["fold_normalization", "awq"], ["gptq", "bias_correction"]])
def test_ranges_are_checked_once_however_often_they_are_taken(
    layer: type[nn.Linear] | type[nn.Conv1d], kinds: list[str]
) -> None:
    """Whether an input is a constant of the model takes one pass over noise; ranges that are replaced take none."""
    network = Counting(layer)
    network.noise.clear()
    torch.manual_seed(1)
    samples = torch.rand(SAMPLES, 1, 8) if layer is nn.Linear else torch.rand(SAMPLES, 1, 8, 4)
    recipe = {"algorithms": [{"kind": kind} for kind in kinds]}
    quantize(network, list(samples), recipe=recipe, export=False, on_failure="ignore")
    assert sum(network.noise) == 1
