"""Memory given back after use: a large model stays on the disk, and memory holds what is computed with.

A tensor that safetensors reads lies in a private mapping of its file, whose pages count as this process's memory once
they were touched. Nothing here ever writes to one, so a page that is given back is read again when it is needed.
"""

import ctypes
import mmap
from collections.abc import Iterable, Sequence
from functools import partial

from torch import Tensor, nn

_DONTNEED = 4
_libc = ctypes.CDLL(None)
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def release(tensor: Tensor) -> None:
    """Give back the pages of a tensor [...] that lies in a mapped file, and that nobody ever wrote to."""
    if tensor.device.type != "cpu" or not tensor.numel():
        return
    start = tensor.data_ptr() // mmap.PAGESIZE * mmap.PAGESIZE
    end = tensor.data_ptr() + tensor.numel() * tensor.element_size()
    _libc.madvise(start, end - start, _DONTNEED)


def release_after_use(modules: Iterable[nn.Module], mapped: set[int]) -> None:
    """Let each module give back its own parameters after every call; `mapped`: ids of parameters that lie in files."""
    for module in modules:
        own = [p for p in module._parameters.values() if p is not None and id(p) in mapped]
        if own:
            module.register_forward_hook(partial(_give_back, own))


def _give_back(parameters: Sequence[Tensor], *_: object) -> None:
    for parameter in parameters:
        release(parameter)
