"""Two 4-bit integers in a byte: [out, in] of −8 … 7 <-> uint8 [out, in / 2], the even column in the low half."""

import torch
from torch import Tensor


def pack_int4(integers: Tensor) -> Tensor:
    """Pack int8 [out, in] within −8 … 7, `in` even, into uint8 [out, in / 2]."""
    nibbles = (integers + 8).to(torch.uint8)
    return nibbles[:, 0::2] | (nibbles[:, 1::2] << 4)


def unpack_int4(packed: Tensor) -> Tensor:
    """Unpack uint8 [out, in / 2] into int8 [out, in]."""
    nibbles = torch.stack((packed & 15, packed >> 4), dim=-1)
    return (nibbles.to(torch.int8) - 8).flatten(1)
