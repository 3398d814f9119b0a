"""Files in memory that are released after use: a large model stays on the disk until it is computed with.

A file of tensors is mapped privately: its pages count as this process's memory once they were touched. Nothing here
ever writes to one, so a page that is released is read again when it is needed.
"""

import ctypes
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from zeropoint.files.block_reader import open_tensors

_DONTNEED = 4
_libc = ctypes.CDLL(None)
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


@dataclass(frozen=True)
class MappedFile:
    """A safetensors file in memory, and its tensors by name; it stays mapped as long as this is there."""

    storage: torch.UntypedStorage
    tensors: Mapping[str, Tensor]

    def release(self) -> None:
        """Release its pages: all of them, because a system may bring in many more than were touched."""
        _libc.madvise(self.storage.data_ptr(), self.storage.nbytes(), _DONTNEED)


def map_file(path: Path) -> MappedFile:
    """Map a file's tensors. Raises RuntimeError when it can't be mapped, InvalidModel when it isn't safetensors."""
    storage = cast(torch.UntypedStorage, torch.UntypedStorage.from_file(str(path), False, path.stat().st_size))
    tensors = {
        name: torch.asarray(storage[t.start : t.start + t.bytes], dtype=torch.uint8).view(t.dtype).reshape(t.shape)
        for name, t in open_tensors(path).items()
    }
    mapped = MappedFile(storage, tensors)
    mapped.release()  # some systems bring the first pages in at once
    return mapped


def release_after_use(modules: Iterable[nn.Module], files: Mapping[int, MappedFile]) -> None:
    """Release each module's parameters after every call; `files` has the file of a parameter by its id."""
    for module in modules:
        mapped = {id(f): f for p in module._parameters.values() if (f := files.get(id(p))) is not None}
        if mapped:
            module.register_forward_hook(partial(_release, list(mapped.values())))


def _release(files: Iterable[MappedFile], *_: object) -> None:
    for file in files:
        file.release()


def trim() -> None:
    """Return freed memory to the system: glibc keeps it as long as one small block above it (a scale, say) stays."""
    if hasattr(_libc, "malloc_trim"):  # glibc has it
        _libc.malloc_trim(0)
