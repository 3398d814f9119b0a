"""Read what torch.save wrote before torch 1.6: five pickles one after another, then the storages' bytes.

A magic number, a protocol, facts about the system, the values, the keys of the storages in their order; then for each
storage its number of elements in 8 bytes and the elements themselves.
"""

import re
import struct
from pathlib import Path
from typing import BinaryIO

from app.intake.parsing.typed import Wrong
from app.intake.pickles.machine import read_pickle
from app.intake.pickles.saved import Saved, require_held
from app.intake.pickles.tree import tensors_of
from app.intake.pickles.values import Storage
from app.intake.tensors.dtypes import BY_NAME
from app.intake.tensors.strided import StoredBytes

MAGIC = re.compile(rb"\x80.(\x95.{8})?\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19[.]", re.DOTALL)
"""The pickle of the magic number, in any protocol."""
HEAD_BYTES = 24
PROTOCOL = 1001


def begins_legacy(head: bytes) -> bool:
    """Return whether a file begins as torch.save began it, from its first HEAD_BYTES."""
    return MAGIC.match(head) is not None


def read_legacy(path: Path) -> Saved:
    """Read a file. Raises Wrong."""
    size = path.stat().st_size
    with path.open("rb") as file:
        read_pickle(file)
        if read_pickle(file).value != PROTOCOL:
            raise Wrong("is of a protocol that isn't known")
        system = read_pickle(file).value
        if not isinstance(system, dict):
            raise Wrong("says nothing of the system that wrote it")
        values, keys = read_pickle(file), read_pickle(file).value
        tensors = tensors_of(values)
        storages = {view.storage.key: view.storage for view in tensors.values()}
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or len(set(keys)) != len(keys):
            raise Wrong("lists its storages in another way than torch does")
        if not storages.keys() <= set(keys):
            raise Wrong("refers to a storage that the file lacks")
        big = system.get("little_endian") is False
        stored = {key: _next(file, path, size, storages.get(key), big=big) for key in keys}
        if file.tell() != size:
            raise Wrong("has bytes after its last storage")
    require_held(tensors, stored)
    return Saved(tensors, stored)


def _next(file: BinaryIO, path: Path, size: int, storage: Storage | None, *, big: bool) -> StoredBytes:
    """Return where the next storage is, and go behind it."""
    if storage is None or storage.dtype is None:
        raise Wrong("has a storage that no tensor uses, or whose elements have no type")
    count = file.read(8)
    if len(count) != 8:
        raise Wrong("is cut off")
    (elements,) = struct.unpack("<q", count)
    start, held = file.tell(), elements * BY_NAME[storage.dtype].bytes
    if not 0 <= held <= size - start:
        raise Wrong(f"claims a storage of {held} bytes, the file has {size - start}")
    file.seek(start + held)
    return StoredBytes(path, start, held, big)
