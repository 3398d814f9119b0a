"""A Hugging Face folder on disk: the unpacked tar that the gate wrote, and which file holds each tensor.

Only headers are read here; a file is mapped when one of its tensors is needed.
"""

import json
import shutil
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import nn

from zeropoint.errors import InvalidModel
from zeropoint.files.block_reader import StoredTensor, open_tensors
from zeropoint.files.mapped import MappedFile, map_file
from zeropoint.schema.checkpoint_files import CARRIED, CONFIG_FILE, KINDS, kind_of
from zeropoint.sources.finite import require_finite

PACK_AGAIN = "Save the network with save_pretrained, and upload that folder."


@dataclass(frozen=True)
class ModelFolder:
    """The config, and where each tensor is stored."""

    path: Path
    config: Mapping[str, Any]
    stored: Mapping[str, StoredTensor]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each tensor."""
        return {name: tensor.shape for name, tensor in self.stored.items()}

    @property
    def carried(self) -> list[str]:
        """Return the files that are copied unchanged, as paths in the folder."""
        places = (path.relative_to(self.path).as_posix() for path in self.path.rglob("*") if path.is_file())
        return sorted(place for place in places if kind_of(place) in CARRIED)

    def mapped(self) -> dict[str, MappedFile]:
        """Return tensor name -> mapped file; each file is mapped once."""
        files = {path: map_file(path) for path in sorted({tensor.path for tensor in self.stored.values()})}
        return {name: files[tensor.path] for name, tensor in self.stored.items()}

    def require_finite(self) -> None:
        """Raise InvalidModel, naming the tensor, if a value is NaN or infinite. One block is in memory at a time."""
        for name, tensor in self.stored.items():
            if tensor.dtype.is_floating_point:
                for block in tensor.blocks():
                    require_finite({name: nn.Parameter(block, requires_grad=False)})

    def dtype(self) -> torch.dtype:
        """Return the network's dtype: the one in config.json, else that of its first floating tensor."""
        configured = self.config.get("dtype")
        if configured is not None:
            dtype: torch.dtype = getattr(torch, configured)
            return dtype
        return next((t.dtype for t in self.stored.values() if t.dtype.is_floating_point), torch.float32)


def open_folder(path: Path) -> ModelFolder:
    """Open a folder, or unpack a tar into a folder next to it. Raises InvalidModel."""
    folder = path if path.is_dir() else _unpacked(path)
    stored: dict[str, StoredTensor] = {}
    with _unreadable_as_invalid():
        config = json.loads((folder / CONFIG_FILE).read_bytes())
        for file in sorted(path for path in folder.iterdir() if KINDS["weights"].fullmatch(path.name)):
            stored |= open_tensors(file)
    return ModelFolder(folder, config, stored)


def read_tar_headers(path: Path) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """Return the config in a tar, and the shape of each tensor by name, without unpacking. Raises InvalidModel."""
    config: dict[str, Any] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    with _unreadable_as_invalid(), tarfile.open(path, "r:") as archive:
        for member in archive:
            content = archive.extractfile(member)
            if content is not None and member.name == CONFIG_FILE:
                config = json.load(content)
            elif content is not None and KINDS["weights"].fullmatch(member.name):
                shapes |= _shapes(content)
    return config, shapes


@contextmanager
def _unreadable_as_invalid() -> Iterator[None]:
    """Raise InvalidModel in place of the errors that unreadable files raise."""
    try:
        yield
    except (OSError, ValueError, KeyError, tarfile.TarError) as error:
        raise InvalidModel("checkpoint_invalid", "The folder's config or weights can't be read.", PACK_AGAIN) from error


def _shapes(file: IO[bytes]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor from the safetensors header that starts at the file's position."""
    header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}


def _unpacked(path: Path) -> Path:
    """Copy the tar's files into a folder next to it. Raises InvalidModel on a name that no checkpoint has."""
    folder = path.with_suffix(".folder")
    folder.mkdir(exist_ok=True)
    with _unreadable_as_invalid(), tarfile.open(path, "r:") as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isreg() else None
            if content is None or kind_of(member.name) is None:
                raise ValueError(f"{member.name} is in no such folder")
            target_path = folder / member.name  # no kind of file has a name that leads elsewhere
            target_path.parent.mkdir(exist_ok=True)
            with content, target_path.open("wb") as target:
                shutil.copyfileobj(content, target, 2**20)
    return folder
