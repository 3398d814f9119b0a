"""Neighbouring samples: told from samples in random order, whatever they hold."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from zeropoint.calibration.neighbours import neighbours_alike
from zeropoint.data.batches import ModelInputs
from zeropoint.data.calls import CallDataset, IterableBatches, read_calls, read_inputs

Draw = Callable[[torch.Generator], Tensor]


def frames(generator: torch.Generator) -> Tensor:
    """A film that changes slowly."""
    return torch.randn(96, 3, 4, 4, generator=generator).cumsum(0)


def windows(generator: torch.Generator) -> Tensor:
    """Sound: no value resembles that of the window before, but its loudness does."""
    loudness = (0.3 * torch.randn(96, 1, generator=generator).cumsum(0)).exp()
    return loudness * torch.randn(96, 64, generator=generator)


def recordings(generator: torch.Generator) -> Tensor:
    """Twelve windows each of eight recordings."""
    return torch.randn(8, 20, generator=generator).repeat_interleave(12, 0) + 0.3 * torch.randn(
        96, 20, generator=generator
    )


def texts(generator: torch.Generator) -> Tensor:
    """Twelve lines each of eight forms, of which a quarter is filled in."""
    ids = torch.randint(0, 1000, (8, 16), generator=generator).repeat_interleave(12, 0)
    ids[:, ::4] = torch.randint(0, 1000, (96, 4), generator=generator)
    return ids


def dataset(*tensors: Tensor, names: tuple[str, ...] = ()) -> CallDataset:
    calls = [ModelInputs(parts, names) for parts in zip(*(torch.split(tensor, 16) for tensor in tensors), strict=True)]
    return read_calls(calls, lambda call: call, 4096)  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize("draw", [frames, windows, recordings, texts])
def test_neighbours_are_told_from_random_order(draw: Draw) -> None:
    for seed in range(8):
        rows = draw(torch.Generator().manual_seed(seed))
        assert neighbours_alike(dataset(rows))
        assert not neighbours_alike(dataset(rows[torch.randperm(96, generator=torch.Generator().manual_seed(seed))]))


@pytest.mark.parametrize("count", [24, 40, 128])
def test_independent_samples_are_not_alike(count: int) -> None:
    for seed in range(40):
        rows = torch.randn(count, 10, generator=torch.Generator().manual_seed(seed)).exp()
        assert not neighbours_alike(dataset(rows))


def test_masks_and_inputs_that_never_change_say_nothing() -> None:
    torch.manual_seed(0)
    mask = (torch.arange(96)[:, None] // 12 > torch.arange(8)).long()
    ids = torch.randint(0, 1000, (96, 8))
    assert not neighbours_alike(dataset(ids, mask, names=("ids", "attention_mask")))
    assert not neighbours_alike(dataset(torch.randn(96, 4), torch.full((96, 1), 0.7)))


def test_few_samples_and_streams_say_nothing() -> None:
    rows = frames(torch.Generator().manual_seed(0))
    assert not neighbours_alike(dataset(rows[:16]))
    assert not neighbours_alike(IterableBatches([(rows,)], read_inputs))
