"""Patches of a convolution's input: the values that its weight multiplies, a row for each position of the output.

A convolution is a linear layer that reads patches, so what is solved for linears holds for it, group by group.
"""

import math

from torch import Tensor
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd


def patches(module: _ConvNd, values: Tensor, most: int) -> Tensor:
    """Return patches [groups, rows, in / groups · taps] of an input [samples, in, ...] or [in, ...].

    Columns are in the order of a weight [out, in / groups, *kernel]. Of more than `most` positions, about so many are
    taken, evenly spread in each dimension, since neighbours overlap. Transposed convolutions have no such patches.
    """
    dimensions = len(module.kernel_size)
    values = values if values.dim() > dimensions + 1 else values[None]
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    values = functional.pad(values, module._reversed_padding_repeated_twice, mode)
    for place, (taps, apart, stride) in enumerate(
        zip(module.kernel_size, module.dilation, module.stride, strict=True), start=2
    ):
        values = values.unfold(place, (taps - 1) * apart + 1, stride)[..., ::apart]
    positions = len(values) * math.prod(values.shape[2 : 2 + dimensions])
    step = max(1, math.ceil((positions / max(most, 1)) ** (1 / dimensions)))
    rows = values[(slice(None), slice(None), *[slice(None, None, step)] * dimensions)].movedim(1, 1 + dimensions)
    return rows.reshape(-1, module.groups, math.prod(module.weight.shape[1:])).transpose(0, 1)
