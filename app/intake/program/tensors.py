"""The tensors of a torch.export archive: two configs map each tensor to the member with its raw bytes.

data/weights/model_weights_config.json        parameters and buffers -> weight_N
data/constants/model_constants_config.json    constants, buffers that are not saved with the module -> tensor_N
"""

import math
from dataclasses import dataclass
from typing import Any

from app.intake.archives.stored_zip import Archive
from app.intake.limits import Limits
from app.intake.parsing.strict_json import read_json
from app.intake.parsing.typed import Wrong, boolean, dict_of, one_of, record, text
from app.intake.program.arguments import tensor_meta
from app.intake.program.refusals import misfit, refused
from app.intake.program.schema import fqn
from app.intake.tensors.dtypes import BY_EXPORT_NUMBER

MAX_CONFIG_BYTES = 64 * 2**20
LARGEST = 2**63 - 1


@dataclass(frozen=True)
class Payload:
    """One config as it is rewritten, and the members that it refers to."""

    config_name: str
    config: dict[str, Any]
    members: tuple[str, ...]


@dataclass(frozen=True)
class Kind:
    """The location of a config, and the names of its members."""

    config_name: str
    folder: str
    member: str


KINDS = (
    Kind("data/weights/model_weights_config.json", "data/weights/", "weight"),
    Kind("data/constants/model_constants_config.json", "data/constants/", "tensor"),
)


def read_payload(archive: Archive, kind: Kind, limits: Limits) -> Payload:
    """Read a config, and check that the raw bytes of every tensor exist. Raises Invalid."""
    meta = record(
        {
            "path_name": text(rf"{kind.member}_\d{{1,6}}", f"{kind.member}_N: only plain tensors are accepted"),
            "is_param": boolean,
            "use_pickle": one_of(False),
            "tensor_meta": tensor_meta,
        }
    )
    check = record({"config": dict_of(fqn, meta, limits.tensors)})
    content = archive.read(kind.config_name, MAX_CONFIG_BYTES)
    document = read_json(content, lambda detail: refused(f"{kind.config_name}: the file {detail}."))
    try:
        config = check(document)
    except Wrong as wrong:
        raise misfit(kind.config_name, wrong) from None
    for name, entry in config["config"].items():
        member = kind.folder + entry["path_name"]
        available, needed = archive.sizes.get(member, -1), storage_bytes(entry["tensor_meta"])
        if needed is None:
            raise refused(f"{kind.config_name}: {name} has sizes and strides that don't fit each other.")
        if available < needed:
            raise refused(f"{kind.config_name}: {name} needs {needed} bytes, {member} has {max(available, 0)}.")
    members = {kind.folder + entry["path_name"]: None for entry in config["config"].values()}
    return Payload(kind.config_name, config, tuple(members))


def storage_bytes(meta: dict[str, Any]) -> int | None:
    """Return how many bytes of its storage a static tensor needs; None when its sizes and strides are inconsistent.

    Both the position of the last element and the number of elements count: a stride of 0 would let a few bytes stand
    for terabytes.
    """
    sizes, strides, offset = ([size.get("as_int") for size in meta["sizes"]], meta["strides"], meta["storage_offset"])
    steps, start = [stride.get("as_int") for stride in strides], offset.get("as_int")
    if len(sizes) != len(steps) or None in sizes or None in steps or start is None:
        return None
    if 0 in sizes:
        return 0
    last = start + sum((size - 1) * step for size, step in zip(sizes, steps, strict=True)) + 1
    needed = max(last, math.prod(sizes)) * BY_EXPORT_NUMBER[meta["dtype"]].bytes
    return needed if needed <= LARGEST else None
