"""Padding stays out of what is measured, where a mask speaks of it, and nothing else does."""

import pytest
import torch
from torch import Tensor, nn

from zeropoint.calibration.collect import Wanted, collect
from zeropoint.data.batches import ModelInputs
from zeropoint.data.calls import IterableBatches, read_inputs
from zeropoint.data.padding import mask_of, visible
from zeropoint.sources.module import module_source

MASK = torch.tensor([[1, 1, 0], [1, 0, 0]])


def test_the_mask_of_a_batch_is_found_by_its_name() -> None:
    batch = ModelInputs([torch.zeros(2, 3), MASK], ["input_ids", "attention_mask"])
    assert torch.equal(mask_of(batch), MASK.bool())  # type: ignore[arg-type]
    assert torch.equal(mask_of(ModelInputs([MASK], ["encoder_attention_mask"])), MASK.bool())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "batch",
    [
        [MASK],
        ModelInputs([MASK]),
        ModelInputs([MASK], ["mask"]),
        ModelInputs([MASK.float()], ["attention_mask"]),
        ModelInputs([MASK[:, None]], ["attention_mask"]),
        ModelInputs([MASK, MASK], ["attention_mask", "decoder_attention_mask"]),
        ModelInputs([torch.ones(2, 3, dtype=torch.int64)], ["attention_mask"]),
        ModelInputs([torch.zeros(2, 3, dtype=torch.int64)], ["attention_mask"]),
    ],
    ids=["list", "positional", "name", "float", "rank", "two", "nothing hidden", "all hidden"],
)
def test_anything_else_is_no_mask(batch: list[Tensor]) -> None:
    assert mask_of(batch) is None


def test_positions_that_count_are_chosen_by_shape() -> None:
    values, mask = torch.arange(6).reshape(2, 3), MASK.bool()
    assert visible(values[..., None], mask).flatten().tolist() == [0, 1, 3]
    assert visible(values.reshape(6, 1), mask).flatten().tolist() == [0, 1, 3]
    assert visible(values, mask) is values  # [N, T] may be anything
    assert visible(values[..., None], None).shape == (2, 3, 1)
    assert visible(torch.zeros(3, 2, 4), mask).shape == (3, 2, 4)


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        y: Tensor = self.linear(x) * attention_mask[..., None]
        return y


def test_padding_does_not_widen_a_range() -> None:
    x = torch.rand(2, 3, 4)
    x[0, 2] = x[1, 1:] = 1000.0
    source = module_source(Encoder())
    calls = IterableBatches([{"x": x, "attention_mask": MASK}], read_inputs)
    found = collect(source, source.layers, calls, lambda *_: None, Wanted({"linear"}, {"linear"})).layers["linear"]
    assert (found.count, found.maximum <= 1.0) == (12, True)
    assert found.channels is not None
    assert found.channels.positions == 3
