"""Corrections beside a quantized weight: a factor for each input channel, and input channels that stay in float.

    y = layer(quantized(x · scale), ŵ) + x[..., channels] · outlier_weightᵀ,  ŵ ≈ W / scale with those columns 0

Sources: SmoothQuant (Xiao et al., ICML 2023, eq. 3) for the factor, LLM.int8() (Dettmers et al., NeurIPS 2022, section
3.2) for the inputs in float, here the same ones for every sample.
"""

from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import linear


def scaled(values: Tensor, scale: Tensor, spatial: int) -> Tensor:
    """Return x [..., in, *spatial] · scale [in] in the dtype of x; `spatial` dimensions follow the channels."""
    return (values * scale.to(values.device).reshape(-1, *[1] * spatial)).to(values.dtype)


def outlier_product(values: Tensor, channels: Tensor, weight: Tensor) -> Tensor:
    """Return x[..., channels] · weightᵀ [..., out] of x [..., in], channels [k] and weight [out, k]."""
    return linear(values.index_select(-1, channels), weight)


def beside_weight(scale: Tensor, shape: Sequence[int], *, transposed: bool) -> Tensor:
    """Return scale [in] in a shape that broadcasts over a weight [out, in / groups, ...] ([in, out / groups, ...]).

    Output o of a grouped convolution reads the inputs of its own group.
    """
    spatial = [1] * (len(shape) - 2)
    if transposed:
        return scale.reshape(-1, 1, *spatial)
    groups = max(1, len(scale) // shape[1])
    of_groups = scale.reshape(groups, 1, shape[1])
    return of_groups.expand(-1, shape[0] // groups, -1).reshape(shape[0], shape[1], *spatial)
