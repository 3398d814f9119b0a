"""Weights that are not finite have no grid: refused before anything else is done with them."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from zeropoint.errors import InvalidModel

BLOCK = 2**22
"""Elements that are looked at together: what that takes of memory beside the tensor."""


def require_finite(state: Mapping[str, Tensor]) -> None:
    """Raises InvalidModel. NaN has no place in a weight; infinity has one in a buffer (an attention mask)."""
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            continue
        is_odd = _is_not_finite if isinstance(tensor, nn.Parameter) else torch.isnan
        if any(bool(is_odd(block).any()) for block in torch.split(tensor.detach().flatten(), BLOCK)):
            raise InvalidModel(
                "non_finite_weights",
                f"Tensor {name!r} holds NaN or infinity, first at index {is_odd(tensor).nonzero()[0].tolist()}.",
                "Train or repair the model, then export and upload it again.",
            )


def _is_not_finite(values: Tensor) -> Tensor:
    return ~torch.isfinite(values)
