"""Read numpy's .npz: a zip of .npy members, each a tensor of its member's name, unpacked as a stream within limits."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from app.intake.archives.zip import Member, even, read_members, stream_member
from app.intake.parsing.names import RULE, is_name
from app.intake.tensors.npy import HEAD_BYTES, read_header, refused
from app.intake.tensors.safetensors import Stored

MAX_MEMBERS = 1_000

_FEWER = "Save fewer samples, or save them with safetensors."


def read_npz(path: Path, max_bytes: int) -> tuple[Stored, ...]:
    """Read the headers of all members, which together may unpack to `max_bytes`. Raises Invalid."""
    members = read_members(path, MAX_MEMBERS, refused)
    total = sum(member.bytes for member in members)
    if total > max_bytes:
        raise refused(f"The archive unpacks to {total} bytes; at most {max_bytes} are accepted.", _FEWER)
    tensors = {}
    for member in members:
        name = _name(member)
        if name in tensors:
            raise refused(f"{name} is in the archive twice.")
        tensors[name] = _stored(path, member, name)
    return tuple(tensors[name] for name in sorted(tensors))


def _name(member: Member) -> str:
    name = member.name.removesuffix(".npy")
    if name == member.name or not member.regular or not is_name(name):
        raise refused(f"A member of the archive is not NAME.npy, with {RULE} in its name.")
    return name


def _stored(path: Path, member: Member, name: str) -> Stored:
    head = next(stream_member(path, member, refused), b"")[:HEAD_BYTES]
    header = read_header(head, member.bytes, name)
    return Stored(name, header.dtype, header.shape, partial(_values, path, member, header.bytes))


def _values(path: Path, member: Member, header_bytes: int) -> Iterator[bytes]:
    """Yield the bytes after the header, in chunks that split no element."""
    stream = stream_member(path, member, refused)
    yield from even(_without(next(stream)[header_bytes:], stream))


def _without(first: bytes, stream: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from stream
