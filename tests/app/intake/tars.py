"""Tar archives, honest and otherwise."""

import gzip
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path


def member(name: str, data: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def tar(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=form) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return target.getvalue()


def tar_of(files: Mapping[str, bytes], root: str = "") -> bytes:
    return tar(*(member(root + name, data) for name, data in files.items()))


def header(name: bytes, size: int, kind: bytes = b"0", size_field: bytes | None = None) -> bytes:
    """One header, its checksum right, whatever it claims."""
    field = b"%011o\0" % size if size_field is None else size_field
    start = name.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + field + b"00000000000\0"
    block = start + b" " * 8 + kind + bytes(100) + b"ustar\x0000" + bytes(247)
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def zeros(mebibytes: int, before: bytes = b"") -> bytes:
    """A gzip of zeros behind some bytes, about a kibibyte for each mebibyte."""
    target = io.BytesIO()
    with gzip.GzipFile(fileobj=target, mode="wb", compresslevel=9) as packed:
        packed.write(before)
        for _ in range(mebibytes):
            packed.write(bytes(2**20))
    return target.getvalue()


def write(path: Path, data: bytes, packed: bool = False) -> Path:
    path.write_bytes(gzip.compress(data) if packed else data)
    return path
