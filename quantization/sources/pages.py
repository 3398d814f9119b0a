"""Memory given back after use: a large model stays on the disk, and memory holds what is computed with.

A tensor that safetensors reads lies in a private mapping of its file, whose pages count as this process's memory once
they were touched. Nothing here ever writes to one, so a page that is given back is read again when it is needed.
"""

import ctypes
import mmap
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

_DONTNEED = 4
_libc = ctypes.CDLL(None)
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


_mappings: dict[int, int] = {}
"""First address -> end of every file that was mapped here."""


def map_file(path: Path) -> torch.UntypedStorage:
    """Map a file into memory, privately: nothing is read before it is touched. Raises RuntimeError when it can't be."""
    storage = cast(torch.UntypedStorage, torch.UntypedStorage.from_file(str(path), False, path.stat().st_size))
    start, end = storage.data_ptr(), storage.data_ptr() + storage.nbytes()
    for other in [other for other, its_end in _mappings.items() if other < end and start < its_end]:
        del _mappings[other]  # it is gone: two mappings have no address in common
    _mappings[start] = end
    _libc.madvise(start, end - start, _DONTNEED)  # some systems bring the first pages in at once
    return storage


def release(tensor: Tensor) -> None:
    """Give back all pages of the file that a tensor lies in; those that are needed again are read again.

    All of them, because a system may bring in many more than were touched. Raises StopIteration for a tensor that lies
    in no file.
    """
    if tensor.device.type != "cpu" or not tensor.numel():
        return
    place = tensor.data_ptr()
    start, end = next((start, end) for start, end in _mappings.items() if start <= place < end)
    _libc.madvise(start // mmap.PAGESIZE * mmap.PAGESIZE, end - start, _DONTNEED)


def trim() -> None:
    """Give back what was freed: glibc keeps it in its heap as long as one small block above it (a scale, say) stays."""
    if hasattr(_libc, "malloc_trim"):  # glibc has it
        _libc.malloc_trim(0)


def release_after_use(modules: Iterable[nn.Module], mapped: set[int]) -> None:
    """Let each module give back its own parameters after every call; `mapped`: ids of parameters that lie in files."""
    for module in modules:
        own = [p for p in module._parameters.values() if p is not None and id(p) in mapped]
        if own:
            module.register_forward_hook(partial(_give_back, own))


def _give_back(parameters: Sequence[Tensor], *_: object) -> None:
    for parameter in parameters:
        release(parameter)
