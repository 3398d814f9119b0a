"""Moments of inputs are those of the values that each column multiplies, whatever the blocks and batches."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.zeropoint.algorithms.conftest import Place, Prepare
from zeropoint.algorithms import column_inputs as module
from zeropoint.algorithms.column_inputs import ColumnInputs, bytes_of, column_inputs

LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (nn.Linear(6, 4), (6,)),
    "tokens": (nn.Linear(6, 4), (5, 6)),
    "row": (nn.Conv1d(3, 4, 3, padding=1, stride=2), (3, 9)),
    "picture": (nn.Conv2d(3, 4, (2, 3), padding=(0, 1)), (3, 5, 5)),
    "groups": (nn.Conv2d(6, 4, 2, groups=2), (6, 4, 4)),
    "volume": (nn.Conv3d(2, 4, 2), (2, 3, 3, 3)),
}
SAMPLES = 64
CALIBRATING = 48


def place_of(prepare: Prepare, name: str) -> tuple[Place, Tensor]:
    torch.manual_seed(0)
    layer, shape = LAYERS[name]
    samples = torch.randn(SAMPLES, *shape) + 3
    return prepare(nn.Sequential(layer), samples), samples[:CALIBRATING]


def columns(layer: nn.Module, samples: Tensor) -> Tensor:
    """What each column meets, [groups, positions, K], taps first: outputs of the layer with a unit matrix as weight."""
    if isinstance(layer, nn.Linear):
        return samples.reshape(1, -1, samples.shape[-1])
    assert isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    count, taps = layer.weight.shape[1], math.prod(layer.kernel_size)
    unit = torch.eye(count * taps).reshape(taps, count, count * taps).permute(2, 1, 0)
    unit = unit.reshape(count * taps, count, *layer.kernel_size)
    convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[len(layer.kernel_size) - 1]
    parts = samples.chunk(layer.groups, 1)
    options = (layer.stride, layer.padding, layer.dilation)
    return torch.stack([convolve(part, unit, None, *options).movedim(1, -1).flatten(0, -2) for part in parts])  # type: ignore[arg-type]


def found(place: Place) -> ColumnInputs:
    return column_inputs(place.context, place.layers)["0"]


@pytest.mark.parametrize("around_mean", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_covariances_are_those_of_the_values_that_columns_multiply(
    prepare: Prepare, name: str, around_mean: bool
) -> None:
    place, samples = place_of(prepare, name)
    rows = columns(LAYERS[name][0], samples).double()
    rows = rows - rows.mean(1, keepdim=True) if around_mean else rows
    wanted = rows.mT @ rows / rows.shape[1]
    (covariance,) = found(place).moments.covariances(10**12, around_mean=around_mean)
    torch.testing.assert_close(covariance.double(), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["linear", "groups"])
def test_blocks_lie_along_the_diagonal(prepare: Prepare, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place, _ = place_of(prepare, name)
    (whole,) = found(place).moments.covariances(10**12, around_mean=True)
    monkeypatch.setattr(module, "COLUMNS", 3)
    parts, start = found(place).moments.covariances(10**12, around_mean=True), 0
    for part in parts:
        stop = start + part.shape[1]
        torch.testing.assert_close(part, whole[:, start:stop, start:stop])
        start = stop
    assert (start, len(parts)) == (whole.shape[1], -(-whole.shape[1] // 3))


def test_few_positions_say_little_about_how_columns_vary_together(prepare: Prepare) -> None:
    place, _ = place_of(prepare, "linear")
    moments = found(place).moments
    (much,), (little,) = (moments.covariances(n, around_mean=True) for n in (10**12, 1))
    assert torch.equal(much.diagonal(dim1=1, dim2=2), little.diagonal(dim1=1, dim2=2))
    known = math.sqrt(CALIBRATING)
    torch.testing.assert_close(little[0, 0, 1], much[0, 0, 1] * known / (known + 6))


def test_a_column_that_never_varies_keeps_a_positive_variance(prepare: Prepare) -> None:
    samples = torch.rand(SAMPLES, 6) * torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0, 0.0])
    place = prepare(nn.Sequential(nn.Linear(6, 4)), samples)
    (covariance,) = found(place).moments.covariances(CALIBRATING, around_mean=True)
    assert bool((covariance.diagonal(dim1=1, dim2=2) > 0).all())


def test_largest_inputs_count_all_positions(prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_POSITIONS", 3)
    place, samples = place_of(prepare, "picture")
    assert torch.equal(found(place).largest, samples.amax((0, 2, 3)))
    assert found(place).moments.count < SAMPLES


@pytest.mark.parametrize("name", LAYERS)
def test_its_bytes_are_known_before(prepare: Prepare, name: str) -> None:
    place, _ = place_of(prepare, name)
    moments = found(place).moments
    held = sum(part.nbytes for part in (moments.origin, moments.total, *moments.products))
    assert bytes_of(place.layers["0"]) == held
