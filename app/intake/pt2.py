"""Reads a torch.export archive (torch 2.13): which members it has, and whether the weights it promises are there.

ROOT/models/model.json                        the program (graph.py)
ROOT/data/weights/model_weights_config.json   parameter name -> member, dtype, shape
ROOT/data/weights/weight_N                    raw bytes
ROOT/data/constants/…                         the same for constants
ROOT/data/sample_inputs/model.pt              a pickle; it is never opened
"""

import re
from pathlib import Path
from typing import Any

from app.intake.archive import Archive
from app.intake.dtypes import BY_EXPORT_NUMBER
from app.intake.facts import Program
from app.intake.foreign import refuse_foreign_archive, refuse_foreign_file
from app.intake.graph import read_graph, refused, take
from app.intake.strict_json import read_json

MAX_PROGRAM_BYTES = 128 * 2**20
MAX_CONFIG_BYTES = 64 * 2**20

PROGRAM = "models/model.json"
_PAYLOADS = {
    "data/weights/model_weights_config.json": ("data/weights/", re.compile(r"weight_\d{1,6}")),
    "data/constants/model_constants_config.json": ("data/constants/", re.compile(r"tensor_\d{1,6}")),
}
_MEMBER = re.compile(
    r"models/model\.json|data/weights/(model_weights_config\.json|weight_\d{1,6})"
    r"|data/constants/(model_constants_config\.json|tensor_\d{1,6})|data/sample_inputs/model\.pt"
    r"|archive_format|archive_version|byteorder|version|\.data/[a-z_]+|\.[a-z_]+"
)


def read_program(path: Path) -> Program:
    """Read an exported program. Raises Invalid with where and what."""
    refuse_foreign_file(path)
    with Archive(path) as archive:
        refuse_foreign_archive(archive.names)
        archive.check_members()
        for name in archive.sizes:
            if not _MEMBER.fullmatch(name):
                raise refused(f"{name}: a program of tensors alone has no such member.")
        if archive.read("archive_format", 16) != b"pt2" or archive.read("byteorder", 16) != b"little":
            raise refused("archive_format and byteorder must say pt2 and little.")
        stored = {name for config in _PAYLOADS for name in _check_payload(archive, config)}
        program = read_graph(_document(archive, PROGRAM, MAX_PROGRAM_BYTES))
    missing = sorted(name for name in program.parameter_names if name not in stored)
    if missing:
        raise refused(f"data/weights: no weights for {missing[0]}.")
    return program.facts


def _document(archive: Archive, name: str, max_bytes: int) -> Any:
    return read_json(archive.read(name, max_bytes), lambda detail: refused(f"{name}: the file {detail}."))


def _check_payload(archive: Archive, config: str) -> list[str]:
    """Check that every tensor of a config is raw bytes in the archive, and enough of them."""
    folder, member_name = _PAYLOADS[config]
    entries = take(_document(archive, config, MAX_CONFIG_BYTES), "config", dict, config)
    for name, entry in entries.items():
        member = take(entry, "path_name", str, f"{config}: {name}")
        if not member_name.fullmatch(member):
            raise refused(f"{config}: {name} is stored as {member[:64]!r}; only plain tensors are taken.")
        if take(entry, "use_pickle", bool, f"{config}: {name}"):
            raise refused(f"{config}: {name} is stored as a pickle; save ordinary tensors.")
        held = archive.sizes.get(f"{folder}{member}", -1)
        needed = _storage_bytes(take(entry, "tensor_meta", dict, f"{config}: {name}"), f"{config}: {name}")
        if held < needed:
            raise refused(f"{config}: {name} needs {needed} bytes, {folder}{member} has {max(held, 0)}.")
    return list(entries)


def _storage_bytes(meta: dict[str, Any], where: str) -> int:
    dtype = BY_EXPORT_NUMBER.get(take(meta, "dtype", int, where))
    if dtype is None:
        raise refused(f"{where} has a dtype that is not known here.")
    sizes = [take(size, "as_int", int, where) for size in take(meta, "sizes", list, where)]
    strides = [take(stride, "as_int", int, where) for stride in take(meta, "strides", list, where)]
    offset = take(take(meta, "storage_offset", dict, where), "as_int", int, where)
    if len(sizes) != len(strides) or min([*sizes, *strides, offset]) < 0:
        raise refused(f"{where} has sizes and strides that don't belong together.")
    if 0 in sizes:
        return 0
    return (offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True)) + 1) * dtype.bytes
