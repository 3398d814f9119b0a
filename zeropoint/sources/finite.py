"""Refuse tensors that hold NaN or infinity, from which no scale can be computed."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from zeropoint.errors import InvalidModel

BLOCK = 2**22
"""Elements checked at once, which bounds the additional memory."""


def require_finite(state: Mapping[str, Tensor]) -> None:
    """Raise InvalidModel if a weight holds NaN or infinity, or a buffer NaN; an attention mask may hold infinity."""
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            continue
        is_invalid = _is_not_finite if isinstance(tensor, nn.Parameter) else torch.isnan
        if any(bool(is_invalid(block).any()) for block in torch.split(tensor.detach().flatten(), BLOCK)):
            raise InvalidModel(
                "non_finite_weights",
                f"Tensor {name!r} holds NaN or infinity, first at index {is_invalid(tensor).nonzero()[0].tolist()}.",
                "Train or repair the model, then export and upload it again.",
            )


def _is_not_finite(values: Tensor) -> Tensor:
    return ~torch.isfinite(values)
