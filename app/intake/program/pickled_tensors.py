"""The tensors of programs that torch 2.6, 2.7 and 2.8 exported: files of torch.save inside of the archive.

They are read without unpickling (`pickles`), and described by a config as later releases write it: the bytes of each
storage are a member of their own.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from app.errors import Invalid
from app.intake.archives.stored_zip import Archive
from app.intake.archives.zip_writer import Member
from app.intake.limits import Limits
from app.intake.parsing.typed import Wrong
from app.intake.pickles.saved import Saved, read_saved
from app.intake.pickles.values import TensorView
from app.intake.program.refusals import misfit, refused
from app.intake.program.tensors import Kind, Payload, config_of, require_bytes
from app.intake.tensors.dtypes import BY_NAME
from app.intake.tensors.safetensors import read_range
from app.intake.tensors.strided import StoredBytes

STRIDED = 7
MOST_COPIES = 2
"""How many times its storages' size a payload may have: one that is read as two types is written twice."""


def read_pickled_payload(archive: Archive, path: Path, kind: Kind, name: str, limits: Limits) -> Payload:
    """Read the member `name`, which is a file of torch.save. Raises Invalid."""
    if name not in archive.sizes:
        raise refused(f"{name} is missing.")
    place = archive.place(name)
    try:
        with Archive(path, archive.start + place.start, place.size) as inner:
            saved = read_saved(inner, path)
        config = config_of(kind, limits)({"config": _config(saved, kind)})
        members = _members(saved, kind)
    except Wrong as wrong:
        raise misfit(name, wrong) from None
    except Invalid as refusal:
        raise Invalid(refusal.code, f"{name}: {refusal.detail}", refusal.remedy) from None
    require_bytes(name, config, {member: stored.size for member, stored in members.items()})
    return Payload(kind.config_name, config, tuple(_member(kind.folder + key, it) for key, it in members.items()))


def _config(saved: Saved, kind: Kind) -> dict[str, Any]:
    """Return the config as torch would write it, with one member for each storage that is read as one dtype."""
    places = _places(saved)
    return {
        name: {
            "path_name": f"{kind.member}_{places[view.storage.key, view.dtype]}",
            "is_param": view.is_parameter,
            "use_pickle": False,
            "tensor_meta": _meta(view),
        }
        for name, view in saved.tensors.items()
    }


def _meta(view: TensorView) -> dict[str, Any]:
    return {
        "dtype": BY_NAME[view.dtype].export_number,
        "sizes": [{"as_int": size} for size in view.sizes],
        "requires_grad": view.requires_grad,
        "device": {"type": "cpu", "index": None},
        "strides": [{"as_int": stride} for stride in view.strides],
        "storage_offset": {"as_int": view.offset},
        "layout": STRIDED,
    }


def _places(saved: Saved) -> Mapping[tuple[str, str], int]:
    """Number the storages by key and dtype, in the order of their tensors."""
    used = dict.fromkeys((view.storage.key, view.dtype) for view in saved.tensors.values())
    return {storage: number for number, storage in enumerate(used)}


def _members(saved: Saved, kind: Kind) -> Mapping[str, StoredBytes]:
    """Return the bytes of each member. Raises Wrong."""
    members = {f"{kind.member}_{number}": saved.storages[key] for (key, _), number in _places(saved).items()}
    if sum(stored.size for stored in members.values()) > MOST_COPIES * sum(s.size for s in saved.storages.values()):
        raise Wrong("has storages that are read as more than one type of element")
    if any(stored.big_endian for stored in members.values()):
        raise Wrong("was written by a machine whose numbers have the highest byte first")
    return members


def _member(name: str, stored: StoredBytes) -> Member:
    return Member(name, stored.size, stored.crc, partial(read_range, stored.path, stored.start, stored.size))
