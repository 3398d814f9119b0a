"""Read what torch.save writes since torch 1.6: a zip with one pickle, and each storage's bytes in a member of its own.

ROOT/data.pkl               the values, read by the machine
ROOT/data/KEY               the bytes of a storage
ROOT/byteorder              little, big; absent before torch 2.1, when it was little
"""

import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from app.intake.archives.stored_zip import Archive, refused
from app.intake.parsing.typed import Wrong
from app.intake.pickles.machine import MAX_BYTES, read_pickle
from app.intake.pickles.tree import tensors_of
from app.intake.pickles.values import Storage, TensorView
from app.intake.tensors.dtypes import BY_NAME
from app.intake.tensors.strided import StoredBytes, reach

PICKLE = "data.pkl"

_MEMBER = re.compile(
    r"data\.pkl|data/[A-Za-z0-9_]{1,64}|byteorder|version|\.format_version|\.storage_alignment"
    r"|\.data/(version|serialization_id)"
)


@dataclass(frozen=True)
class Saved:
    """The tensors of a file by name, and the bytes of their storages by key."""

    tensors: Mapping[str, TensorView]
    storages: Mapping[str, StoredBytes]


def read_saved(archive: Archive, path: Path) -> Saved:
    """Read an opened archive of the file `path`, every checksum included. Raises Wrong or Invalid."""
    archive.check_members()
    for name in archive.sizes:
        if not _MEMBER.fullmatch(name):
            raise refused(f"{name}: a file of torch.save has no such member.")
    order = archive.read("byteorder", 16) if "byteorder" in archive.sizes else b"little"
    if order not in (b"little", b"big"):
        raise refused("byteorder says neither little nor big.")
    tensors = tensors_of(read_pickle(io.BytesIO(archive.read(PICKLE, MAX_BYTES))))
    storages = {}
    for key in {view.storage.key for view in tensors.values()}:
        name = f"data/{key}"
        if name not in archive.sizes:
            raise Wrong("refers to a storage that the file lacks")
        for _ in archive.chunks(name):  # checks the checksum
            pass
        place = archive.place(name)
        storages[key] = StoredBytes(path, archive.start + place.start, place.size, order == b"big", place.crc)
    require_held(tensors, storages)
    return Saved(tensors, storages)


def require_held(tensors: Mapping[str, TensorView], storages: Mapping[str, StoredBytes]) -> None:
    """Raise Wrong unless the bytes of every storage and every tensor are there."""
    for name, view in tensors.items():
        held, element = storages[view.storage.key].size, BY_NAME[view.dtype].bytes
        if reach(view.sizes, view.strides, view.offset) + view.storage.start > held // element:
            raise Wrong(f"needs more than the {held} bytes of its storage", name)
    _require_claims((view.storage for view in tensors.values()), storages)


def _require_claims(claimed: Iterable[Storage], storages: Mapping[str, StoredBytes]) -> None:
    for storage in claimed:
        element = BY_NAME[storage.dtype].bytes if storage.dtype else 1
        held = storages[storage.key].size
        if (storage.start + storage.elements) * element > held:
            raise Wrong(f"claims a storage of {storage.elements * element} bytes, the file has {held}")
