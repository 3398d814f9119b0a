"""Write a checked Hugging Face folder as a plain tar of checked values under known names.

config.json holds only the keys that were checked, as do the files of a sentence encoder; weights are fresh safetensors;
tokenizer files are copied byte by byte, and we never parse them.
"""

import json
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from app.intake.archives.zip import MAGIC as ZIP
from app.intake.archives.zip import read_members
from app.intake.facts import Model
from app.intake.huggingface.left_out import listed
from app.intake.huggingface.read import Checkpoint, read_checkpoint
from app.intake.huggingface.sentence_encoder import read_sentence_encoder
from app.intake.huggingface.unpack import MAX_MEMBERS, FolderFile, UnpackedFolder, unpack_folder
from app.intake.huggingface.weights import form_of, read_weights
from app.intake.tensors.read import Plan, weights_facts
from app.intake.tensors.safetensors import Stored, bytes_of_file, read_range, write_stored
from app.intake.tensors.weights import weights_model
from zeropoint.schema.checkpoint_files import CARRIED, CONFIG_FILE, INDEX_FILE, WEIGHTS_FILE, kind_of, shard_name

MOST_KEYS = 16
_GZIP = b"\x1f\x8b"
_TAR_MAGIC = slice(257, 262)


@dataclass(frozen=True)
class _Member:
    name: str
    bytes: int
    write: Callable[[BinaryIO], None]


@dataclass(frozen=True)
class CheckedFolder:
    """A folder in which every value that is read later has been checked."""

    facts: Model
    checkpoint: Checkpoint
    files: tuple[FolderFile, ...]
    documents: Mapping[str, Any]
    """Those of a sentence encoder, by their paths."""
    folder: Path

    def write(self, target: BinaryIO) -> None:
        """Write the fresh tar, the same bytes however the folder was packed; memory stays constant."""
        for member in self._members():
            info = tarfile.TarInfo(member.name)
            info.size = member.bytes
            target.write(info.tobuf(tarfile.GNU_FORMAT))
            member.write(target)
            target.write(bytes(-member.bytes % tarfile.BLOCKSIZE))
        target.write(bytes(2 * tarfile.BLOCKSIZE))

    def _members(self) -> Iterator[_Member]:
        config = {"architectures": [self.checkpoint.architecture], "model_type": self.checkpoint.model_type}
        yield _of_json(CONFIG_FILE, config | self.checkpoint.config)
        shards = self.checkpoint.shards
        names = [WEIGHTS_FILE] if len(shards) == 1 else [shard_name(i + 1, len(shards)) for i in range(len(shards))]
        places: dict[str, str] = {}
        for name, tensors in zip(names, shards, strict=True):
            places |= {tensor.name: name for tensor in tensors}
            yield _of_tensors(name, tensors)
        if len(shards) > 1:
            yield _of_json(INDEX_FILE, {"metadata": {}, "weight_map": places})
        for file in sorted(self.files, key=lambda file: file.name):
            if file.kind in CARRIED:
                yield _Member(file.name, file.bytes, partial(_copy, self.folder / file.file, file.bytes))
        for name, document in sorted(self.documents.items()):
            yield _of_json(name, document)


def is_folder(path: Path) -> bool:
    """Return whether the file is an archived folder: a tar, a gzip, or a zip with a config or index, and no program."""
    with path.open("rb") as file:
        head = file.read(512)
    if not head.startswith(ZIP):
        return head.startswith(_GZIP) or head[_TAR_MAGIC] == b"ustar"
    try:
        names = {member.name.rpartition("/")[2] for member in read_members(path, MAX_MEMBERS, ValueError)}
    except ValueError:
        return False
    network = CONFIG_FILE in names or any(kind_of(name) in ("index", "pickled_index") for name in names)
    return network and "model.json" not in names


def read_folder(path: Path, scratch: Path, max_bytes: int) -> CheckedFolder | Plan[Model]:
    """Check an archive, unpacked into the empty folder `scratch`. Raises Invalid with what is wrong, and where.

    Inputs and layers stay empty: only the library that builds the network knows them. Files of weights with nothing
    else that a network needs are weights alone.
    """
    unpacked = unpack_folder(path, scratch, max_bytes)
    if unpacked.is_weights_alone:
        return _weights_alone(scratch, unpacked)
    checkpoint = read_checkpoint(scratch, unpacked)
    encoder = read_sentence_encoder(scratch, unpacked.beside)
    left_out = listed((*unpacked.left_out, *encoder.left_out, *_keys(checkpoint)))
    facts = Model(format="huggingface", inputs=(), layers=(), parameters=checkpoint.parameters, left_out=left_out)
    return CheckedFolder(facts, checkpoint, unpacked.files, encoder.documents, scratch)


def _weights_alone(folder: Path, unpacked: UnpackedFolder) -> Plan[Model]:
    form = form_of(unpacked.files)
    assert form is not None
    shards = read_weights(folder, unpacked.files, form)
    stored = tuple(sorted((one for tensors in shards.stored.values() for one in tensors), key=lambda one: one.name))
    plan = weights_model(Plan(weights_facts(stored), stored))
    return replace(plan, facts=replace(plan.facts, left_out=listed(unpacked.left_out)))


def _keys(checkpoint: Checkpoint) -> Iterator[tuple[str, str]]:
    """Yield the keys of config.json that were dropped, as a reason."""
    if names := checkpoint.dropped:
        more = f" and {len(names) - MOST_KEYS} more" if len(names) > MOST_KEYS else ""
        yield CONFIG_FILE, f"read without keys that the network does not have: {', '.join(names[:MOST_KEYS])}{more}"


def _of_json(name: str, content: object) -> _Member:
    data = json.dumps(content, indent=2, sort_keys=True).encode() + b"\n"
    return _Member(name, len(data), lambda target: _write(data, target))


def _of_tensors(name: str, tensors: Sequence[Stored]) -> _Member:
    return _Member(name, bytes_of_file(tensors), partial(write_stored, tensors))


def _write(data: bytes, target: BinaryIO) -> None:
    target.write(data)


def _copy(path: Path, size: int, target: BinaryIO) -> None:
    for chunk in read_range(path, 0, size):
        target.write(chunk)
