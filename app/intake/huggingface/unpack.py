"""Unpack a Hugging Face folder (tar, tar.gz or zip) member by member into files that we name.

No name in the archive becomes a path, so nothing can be written elsewhere. Only files that a checkpoint needs are kept;
what else a folder holds is read past, within the same limits, and listed. Every limit is checked while bytes are read.
"""

import gzip
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from app.errors import Invalid
from app.intake.archives.tar import BLOCK_BYTES, TarEntry, read_tar
from app.intake.archives.zip import MAGIC as ZIP
from app.intake.archives.zip import read_members, stream_member
from app.intake.huggingface.left_out import LINK, OUTSIDE, in_folder, reason_of
from app.intake.parsing.strict_json import Refuse
from app.room import require_room
from zeropoint.schema.checkpoint_files import CONFIG_FILE, MODULES_FILE, kind_of

MAX_MEMBERS = 1_000

PACK_AGAIN = "Save with model.save_pretrained(FOLDER), then pack that folder alone: tar -chf model.tar -C FOLDER ."


@dataclass(frozen=True)
class FolderFile:
    """An unpacked file: our name for it, its kind, its path in the checkpoint, its size."""

    file: str
    kind: str
    name: str
    bytes: int
    fault: Invalid | None = None
    """Why it can't be taken, if the network needs it."""


@dataclass(frozen=True)
class UnpackedFolder:
    """The network's files, files beside them that may describe its pooling, and pairs of a path left out and a reason.

    Paths are relative to the network's folder, those of `beside` to the folder of `modules.json`.
    """

    files: tuple[FolderFile, ...]
    beside: tuple[FolderFile, ...]
    left_out: tuple[tuple[str, str], ...]

    @property
    def is_weights_alone(self) -> bool:
        """Return whether nothing is there of a network but its weights."""
        return bool(self.files) and all(file.kind in (*WEIGHTS, *PICKLED) for file in self.files) and not self.beside


_SUFFIXES = {"weights": "safetensors", "pickled_weights": "bin", "tokenizer": "stored"}
_MAX_BYTES = {
    "config": 2**20,
    "generation_config": 2**20,
    "sentence_encoder": 2**20,
    "weights": 2**63,
    "pickled_weights": 2**63,
    "index": 16 * 2**20,
    "pickled_index": 16 * 2**20,
    "tokenizer": 64 * 2**20,
}
WEIGHTS = ("weights", "index")
PICKLED = ("pickled_weights", "pickled_index")
"""Kinds that are read where there are no safetensors, and left out beside these."""
_MODULE = re.compile(r"[0-9]{1,2}_[A-Za-z]{1,32}")
_ADAPTER = re.compile(r"adapter_(config\.json|model\..*)")


def unpack_folder(path: Path, target: Path, max_bytes: int) -> UnpackedFolder:
    """Unpack an archive into an empty folder; `max_bytes` bounds the sum of all members. Raises Invalid."""
    files: dict[str, FolderFile] = {}
    passed_over: list[tuple[str, str]] = []
    remaining = max_bytes
    with _entries(path) as entries:
        for number, entry in enumerate(entries):
            place, leaf = _place(entry)
            kind = kind_of(leaf)
            if kind is None:
                remaining -= _copy(entry.chunks, Path(os.devnull), remaining, leaf, kept=0)
                passed_over.append((place, reason_of(leaf) if entry.regular else LINK))
                continue
            file = f"{number}.{_SUFFIXES.get(kind, 'json')}"
            most = _MAX_BYTES[kind]
            size = _copy(entry.chunks, target / file, remaining, leaf, most)
            remaining -= size
            fault = _fault(leaf, entry, size > most, place.lower() in files)
            files[place.lower()] = FolderFile(file, kind, place, size, fault)
    return _within_root(tuple(files.values()), passed_over)


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
    """Return the path of a member, and its last part. Raises Invalid if it could lead out of the folder."""
    parts = entry.name.removeprefix("./").split("/")
    if {"", ".", ".."} & set(parts) or "\\" in entry.name:
        raise refused(f"{shown(parts[-1])} is not in the folder that the archive holds.")
    return "/".join(parts), parts[-1]


def _fault(leaf: str, entry: TarEntry, too_large: bool, known: bool) -> Invalid | None:
    """Return the refusal of a file that is no plain file, too large, or in the archive twice; None for any other.

    It is due only if the network needs the file: an example's `config.json` may be what it likes.
    """
    if not entry.regular:
        return refused(f"{shown(leaf)} is a link or a device; only plain files are accepted.")
    if known:
        return refused(f"{shown(leaf)} is in the archive twice.")
    if too_large:
        return refused(f"{shown(leaf)} has more than the {_MAX_BYTES[kind_of(leaf) or '']} bytes that it may have.")
    return None


def _within_root(files: tuple[FolderFile, ...], passed_over: list[tuple[str, str]]) -> UnpackedFolder:
    """Sort the files by the folder that holds the network. Raises Invalid if several do, or an adapter is there."""
    root = _root(files, [place for place, _ in passed_over])
    base = _base(root, files)
    own = [replace(f, name=_below(f.name, root)) for f in files if _is_own(f, root)]
    if any(file.kind == "weights" for file in own):
        own = [file for file in own if file.kind not in PICKLED]
    beside = [replace(f, name=_below(_below(f.name, root), base)) for f in files if _is_beside(f, root, base)]
    for file in (*own, *beside):
        if file.fault is not None:
            raise file.fault
    taken = {file.file for file in (*own, *beside)}
    elsewhere = [
        (file.name, OUTSIDE if _folder(file.name) != root else reason_of(_below(file.name, root)))
        for file in files
        if file.file not in taken
    ]
    left_out = [in_folder(_below(_below(place, root), base), reason) for place, reason in (*passed_over, *elsewhere)]
    for name, _ in left_out:
        if _ADAPTER.fullmatch(name):
            raise Invalid(
                "model_format_unsupported",
                f"{shown(name)} belongs to an adapter, which changes the network that from_pretrained builds.",
                "Merge the adapter (merge_and_unload of peft), save the result with save_pretrained, and upload that.",
            )
    return UnpackedFolder(tuple(own), tuple(beside), tuple(left_out))


def _is_own(file: FolderFile, root: str) -> bool:
    return _folder(file.name) == root and file.kind != "sentence_encoder"


def _is_beside(file: FolderFile, root: str, base: str) -> bool:
    """Return whether a file may describe what follows the network: `modules.json`, `1_Pooling/config.json`."""
    folder, leaf = _folder(file.name), file.name.rpartition("/")[2]
    if file.kind == "sentence_encoder":
        return folder in (root, base)
    is_module = _folder(folder) == base and _MODULE.fullmatch(folder.rpartition("/")[2])
    return leaf == CONFIG_FILE and folder != root and bool(is_module)


def _base(root: str, files: tuple[FolderFile, ...]) -> str:
    """Return the folder of `modules.json`: the network's own, or the one above it."""
    names = {file.name for file in files}
    own, above = (f"{folder}/{MODULES_FILE}".lstrip("/") for folder in (root, _folder(root)))
    return _folder(root) if own not in names and above in names else root


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _root(files: tuple[FolderFile, ...], others: Sequence[str]) -> str:
    """Return the folder of the network: with a config and, if possible, weights; the least deep. Raises Invalid."""
    folders = {kind: {_folder(file.name) for file in files if file.kind == kind} for kind in _MAX_BYTES}
    weights = {folder for kind in (*WEIGHTS, *PICKLED) for folder in folders[kind]}
    whole = folders["config"] & weights
    candidates = whole or folders["config"] or weights or set(map(_folder, others)) or {""}
    least = sorted(candidates, key=lambda folder: (_depth(folder), folder))
    if whole and len(least) > 1 and _depth(least[0]) == _depth(least[1]):
        names = ", ".join(shown(folder.rpartition("/")[2]) for folder in least[:8])
        raise refused(f"More than one folder holds a network: {names}.", "Pack the folder of one network alone.")
    return least[0]


def _depth(folder: str) -> int:
    return folder.count("/") + 1 if folder else 0


def _below(place: str, base: str) -> str:
    return place.removeprefix(f"{base}/") if base else place


def _copy(chunks: Iterable[bytes], target: Path, max_bytes: int, name: str, kept: int = 2**63) -> int:
    """Write at most `kept` bytes of a member, and return how many it has.

    Raises Invalid on more than `max_bytes`, and OSError (NO_ROOM) when the disk has no room.
    """
    size = 0
    with target.open("wb") as file:
        for chunk in chunks:
            size += len(chunk)
            if size > max_bytes:
                raise refused(f"{shown(name)} has more than the {max_bytes} bytes that may still be unpacked for it.")
            if size <= kept:
                require_room(file.fileno(), len(chunk))
                file.write(chunk)
    return size


def shown(name: str) -> str:
    """Return a name from an archive, or generic words if it is unfit for a message."""
    return name if re.fullmatch(r"[A-Za-z0-9_.+-]{1,128}", name) else "A member of the archive"
