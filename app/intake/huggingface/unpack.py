"""Unpack a Hugging Face folder (tar, tar.gz or zip) member by member into files that we name.

No name in the archive becomes a path, so nothing can be written elsewhere; only names that a checkpoint needs are
accepted, and no file that could hold code. Every limit is checked while bytes are read.
"""

import gzip
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.errors import Invalid
from app.intake.archives.tar import BLOCK_BYTES, TarEntry, read_tar
from app.intake.archives.zip import MAGIC as ZIP
from app.intake.archives.zip import read_members, stream_member
from app.intake.parsing.strict_json import Refuse
from zeropoint.schema.checkpoint_files import kind_of

MAX_MEMBERS = 1_000

PACK_AGAIN = "Save with model.save_pretrained(FOLDER), then pack that folder alone: tar -cf model.tar -C FOLDER ."
SAVE_SAFETENSORS = "Leave the file out; save the weights with model.save_pretrained(FOLDER), which writes safetensors."


@dataclass(frozen=True)
class FolderFile:
    """An unpacked file: our name for it, its kind, its name in the checkpoint, its size."""

    file: str
    kind: str
    name: str
    bytes: int


_SUFFIXES = {"weights": "safetensors", "tokenizer": "stored"}
_MAX_BYTES = {
    "config": 2**20,
    "generation_config": 2**20,
    "weights": 2**63,
    "index": 16 * 2**20,
    "tokenizer": 64 * 2**20,
}
_IGNORED = re.compile(r"README(\.md)?|LICENSE(\.(md|txt))?|NOTICE(\.txt)?|\.git(attributes|ignore)|\.DS_Store|\._.*")
_FOREIGN = re.compile(
    r".*\.(py|bin|pt|pth|pkl|pickle|h5|msgpack|ckpt|joblib|npz|onnx|ot|so|gguf)|adapter_(config\.json|model\..*)", re.I
)
_MAX_IGNORED_BYTES = 2**20


def unpack_folder(path: Path, target: Path, max_bytes: int) -> tuple[FolderFile, ...]:
    """Unpack an archive into an empty folder; `max_bytes` bounds the sum of all members. Raises Invalid."""
    files: dict[str, FolderFile] = {}
    roots: set[str] = set()
    remaining = max_bytes
    with _entries(path) as entries:
        for number, entry in enumerate(entries):
            root, name = _place(entry)
            if _IGNORED.fullmatch(name):
                remaining -= _copy(entry.chunks, Path(os.devnull), min(remaining, _MAX_IGNORED_BYTES), name)
                continue
            roots.add(root)
            if name.lower() in files or len(roots) > 1:
                raise refused(f"{name} is in the archive twice, or in another folder than the other files.")
            kind = _kind_of(name)
            file = f"{number}.{_SUFFIXES.get(kind, 'json')}"
            size = _copy(entry.chunks, target / file, min(remaining, _MAX_BYTES[kind]), name)
            files[name.lower()] = FolderFile(file, kind, name, size)
            remaining -= size
    return tuple(files.values())


def refused(detail: str, remedy: str = PACK_AGAIN) -> Invalid:
    """Return the refusal of a checkpoint."""
    return Invalid("checkpoint_invalid", detail, remedy)


@contextmanager
def _entries(path: Path) -> Iterator[Iterable[TarEntry]]:
    """Open an archive by its first bytes and yield its entries."""
    with path.open("rb") as file:
        head = file.read(BLOCK_BYTES)
        file.seek(0)
        if head.startswith(ZIP):
            yield _zip_entries(path, refused)
        elif head.startswith(b"\x1f\x8b"):
            with gzip.GzipFile(fileobj=file) as unpacked:
                yield read_tar(unpacked, MAX_MEMBERS, refused)
        elif head[257:262] == b"ustar":
            yield read_tar(file, MAX_MEMBERS, refused)
        else:
            raise refused("The file is neither a tar, plain or with gzip, nor a zip.")


def _zip_entries(path: Path, refuse: Refuse) -> Iterator[TarEntry]:
    for member in read_members(path, MAX_MEMBERS, refuse):
        yield TarEntry(member.name, member.regular, stream_member(path, member, refuse))


def _place(entry: TarEntry) -> tuple[str, str]:
    """Return the root folder ("" for none) and the name in it. Raises Invalid."""
    parts = entry.name.removeprefix("./").split("/")
    if not entry.regular:
        raise refused(f"{shown(parts[-1])} is a link or a device; only plain files are accepted.")
    if not 1 <= len(parts) <= len(("root", "name")) or {"", ".", ".."} & set(parts) or "\\" in entry.name:
        raise refused(f"{shown(parts[-1])} is not directly in the one folder that an archive may have.")
    return "/".join(parts[:-1]), parts[-1]


def _kind_of(name: str) -> str:
    if (kind := kind_of(name)) is not None:
        return kind
    if _FOREIGN.fullmatch(name):
        raise Invalid(
            "model_format_unsupported",
            f"{shown(name)} may hold code, a pickle, or weights in an unsupported format.",
            SAVE_SAFETENSORS,
        )
    raise refused(f"{shown(name)} is not a file that a checkpoint needs.", "Leave it out, and pack the folder again.")


def _copy(chunks: Iterable[bytes], target: Path, max_bytes: int, name: str) -> int:
    size = 0
    with target.open("wb") as file:
        for chunk in chunks:
            size += len(chunk)
            if size > max_bytes:
                raise refused(f"{shown(name)} has more than the {max_bytes} bytes that may still be unpacked for it.")
            file.write(chunk)
    return size


def shown(name: str) -> str:
    """Return a name from an archive, or generic words if it is unfit for a message."""
    return name if re.fullmatch(r"[A-Za-z0-9_.+-]{1,128}", name) else "A member of the archive"
