"""Padding: positions that the attention mask of a batch hides are not measured.

A mask is an input called attention_mask (or …_attention_mask), [N, T], 0 where a position is padding. It applies to
values [N, T, …] and [N · T, …]; all other values are taken whole.
"""

from collections.abc import Sequence

from torch import Tensor

from zeropoint.data.batches import ModelInputs

MASK = "attention_mask"


def mask_of(batch: Sequence[Tensor]) -> Tensor | None:
    """Return the mask of a batch, bool [N, T], True where a position counts; None when nothing is masked."""
    if not isinstance(batch, ModelInputs):
        return None
    masks = [tensor for name, tensor in zip(batch.names, batch, strict=True) if name.endswith(MASK)]
    if len(masks) != 1 or masks[0].dim() != 2 or masks[0].is_floating_point():
        return None
    mask = masks[0] != 0
    return None if bool(mask.all()) or not bool(mask.any()) else mask


def visible(values: Tensor, mask: Tensor | None) -> Tensor:
    """Return the values at positions that count, [P, …]; all of them where the mask does not apply to their shape."""
    if mask is None:
        return values
    if values.dim() >= 3 and values.shape[:2] == mask.shape:
        return values[mask.to(values.device)]
    if values.dim() == 2 and len(values) == mask.numel():
        return values[mask.flatten().to(values.device)]
    return values
