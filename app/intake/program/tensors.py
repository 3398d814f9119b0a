"""The tensors of a torch.export archive: each config maps tensors to the members with the raw bytes of their storages.

data/weights/model_weights_config.json        parameters and buffers -> weight_N
data/constants/model_constants_config.json    constants, buffers that are not saved with the module -> tensor_N
"""

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from app.intake.archives.stored_zip import Archive
from app.intake.archives.zip_writer import Member
from app.intake.limits import Limits
from app.intake.parsing.strict_json import read_json
from app.intake.parsing.typed import Check, Wrong, boolean, dict_of, one_of, record, text
from app.intake.program.arguments import tensor_meta
from app.intake.program.refusals import misfit, refused
from app.intake.program.schema import fqn
from app.intake.tensors.dtypes import BY_EXPORT_NUMBER
from app.intake.tensors.safetensors import is_countable, read_range
from app.intake.tensors.strided import reach

MAX_CONFIG_BYTES = 64 * 2**20
LARGEST = 2**63 - 1


@dataclass(frozen=True)
class Payload:
    """One config as it is rewritten, and the members that it refers to."""

    config_name: str
    config: dict[str, Any]
    members: tuple[Member, ...]


@dataclass(frozen=True)
class Kind:
    """The location of a config, the names of its members, and where torch 2.8 and torch before it pickled them."""

    config_name: str
    folder: str
    member: str
    pickled: str
    oldest: str


KINDS = (
    Kind(
        "data/weights/model_weights_config.json",
        "data/weights/",
        "weight",
        "data/weights/model.pt",
        "serialized_state_dict.pt",
    ),
    Kind(
        "data/constants/model_constants_config.json",
        "data/constants/",
        "tensor",
        "data/constants/model.pt",
        "serialized_constants.pt",
    ),
)


def config_of(kind: Kind, limits: Limits) -> Check:
    """Return the check of a config."""
    meta = record(
        {
            "path_name": text(rf"{kind.member}_[0-9]{{1,6}}", f"{kind.member}_N: only plain tensors are accepted"),
            "is_param": boolean,
            "use_pickle": one_of(False),
            "tensor_meta": tensor_meta,
        }
    )
    return record({"config": dict_of(fqn, meta, limits.tensors)})


def read_payload(archive: Archive, path: Path, kind: Kind, limits: Limits) -> Payload:
    """Read a config, and check that the raw bytes of every tensor exist. Raises Invalid."""
    content = archive.read(kind.config_name, MAX_CONFIG_BYTES)
    document = read_json(content, lambda detail: refused(f"{kind.config_name}: the file {detail}."))
    try:
        config = config_of(kind, limits)(document)
    except Wrong as wrong:
        raise misfit(kind.config_name, wrong) from None
    sizes = {name: archive.sizes.get(kind.folder + name, -1) for name in _members_of(config)}
    require_bytes(kind.config_name, config, sizes)
    return Payload(kind.config_name, config, tuple(_member(archive, path, kind.folder + name) for name in sizes))


def require_bytes(where: str, config: dict[str, Any], sizes: dict[str, int]) -> None:
    """Raise Invalid unless every tensor of a config lies within its member; `sizes`: those of the members."""
    for name, entry in config["config"].items():
        member = entry["path_name"]
        available, needed = sizes[member], storage_bytes(entry["tensor_meta"])
        if needed is None:
            raise refused(f"{where}: {name} has sizes and strides that don't fit each other.")
        if available < needed:
            raise refused(f"{where}: {name} needs {needed} bytes, {member} has {max(available, 0)}.")


def _members_of(config: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(entry["path_name"] for entry in config["config"].values()))


def _member(archive: Archive, path: Path, name: str) -> Member:
    for _ in archive.chunks(name):  # checks the checksum before the facts are reported
        pass
    place = archive.place(name)
    return Member(name, place.size, place.crc, partial(read_range, path, archive.start + place.start, place.size))


def storage_bytes(meta: dict[str, Any]) -> int | None:
    """Return how many bytes of its storage a static tensor needs; None when its sizes and strides are inconsistent.

    Both the position of the last element and the number of elements count: a stride of 0 would let a few bytes stand
    for terabytes.
    """
    sizes, strides, offset = ([size.get("as_int") for size in meta["sizes"]], meta["strides"], meta["storage_offset"])
    steps, start = [stride.get("as_int") for stride in strides], offset.get("as_int")
    if len(sizes) != len(steps) or None in sizes or None in steps or start is None:
        return None
    dtype = BY_EXPORT_NUMBER[meta["dtype"]]
    needed = max(reach(sizes, steps, start), 0 if 0 in sizes else math.prod(sizes)) * dtype.bytes
    return needed if needed <= LARGEST and is_countable(sizes, dtype.name) else None
