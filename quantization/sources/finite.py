"""Weights that are not finite have no grid: refused before anything else is done with them."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from quantization.errors import InvalidModel


def require_finite(state: Mapping[str, Tensor]) -> None:
    """Raises InvalidModel. NaN has no place in a weight; infinity has one in a buffer (an attention mask)."""
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            continue
        bad = ~torch.isfinite(tensor) if isinstance(tensor, nn.Parameter) else torch.isnan(tensor)
        if bool(bad.any()):
            raise InvalidModel(
                "non_finite_weights",
                f"Tensor {name!r} holds NaN or infinity, first at index {bad.nonzero()[0].tolist()}.",
                "Train or repair the model, then export and upload it again.",
            )
