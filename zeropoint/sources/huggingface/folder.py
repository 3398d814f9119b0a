"""A Hugging Face folder on disk: the tar that the gate wrote, unpacked, and which tensor lies in which file.

Nothing is read but headers; a tensor is mapped when it is asked for.
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
    """Config, and where each tensor lies."""

    path: Path
    config: Mapping[str, Any]
    stored: Mapping[str, StoredTensor]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor."""
        return {name: tensor.shape for name, tensor in self.stored.items()}

    @property
    def carried(self) -> list[Path]:
        """Files that go out as they came in."""
        return sorted(path for path in self.path.iterdir() if kind_of(path.name) in CARRIED)

    def mapped(self) -> dict[str, MappedFile]:
        """Tensor name -> its file, mapped; a file is mapped once."""
        files = {path: map_file(path) for path in sorted({tensor.path for tensor in self.stored.values()})}
        return {name: files[tensor.path] for name, tensor in self.stored.items()}

    def require_finite(self) -> None:
        """Raises InvalidModel, naming the tensor, when a value is NaN or infinite. One block is in memory at a time."""
        for name, tensor in self.stored.items():
            if tensor.dtype.is_floating_point:
                for block in tensor.blocks():
                    require_finite({name: nn.Parameter(block, requires_grad=False)})

    def dtype(self) -> torch.dtype:
        """What the network computes in: what config.json says, else the dtype of its first floating weight."""
        said = self.config.get("dtype")
        if said is not None:
            found: torch.dtype = getattr(torch, said)
            return found
        return next((t.dtype for t in self.stored.values() if t.dtype.is_floating_point), torch.float32)


def open_folder(path: Path) -> ModelFolder:
    """Open a folder, or unpack the tar of one beside it. Raises InvalidModel."""
    folder = path if path.is_dir() else _unpacked(path)
    stored: dict[str, StoredTensor] = {}
    with _understood():
        config = json.loads((folder / CONFIG_FILE).read_bytes())
        for file in sorted(path for path in folder.iterdir() if KINDS["weights"].fullmatch(path.name)):
            stored |= open_tensors(file)
    return ModelFolder(folder, config, stored)


def look_into(path: Path) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """The config in a tar, and the shape of each tensor by name; nothing is unpacked. Raises InvalidModel."""
    config: dict[str, Any] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    with _understood(), tarfile.open(path, "r:") as archive:
        for member in archive:
            content = archive.extractfile(member)
            if content is not None and member.name == CONFIG_FILE:
                config = json.load(content)
            elif content is not None and KINDS["weights"].fullmatch(member.name):
                shapes |= _shapes(content)
    return config, shapes


@contextmanager
def _understood() -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, tarfile.TarError) as error:
        raise InvalidModel("checkpoint_invalid", "The folder's config or weights can't be read.", PACK_AGAIN) from error


def _shapes(file: IO[bytes]) -> dict[str, tuple[int, ...]]:
    """What the header of a safetensors file says, which begins here."""
    header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}


def _unpacked(path: Path) -> Path:
    """Copy each file of the tar out, under a name of a checkpoint, into a folder beside it."""
    folder = path.with_suffix(".folder")
    folder.mkdir(exist_ok=True)
    with _understood(), tarfile.open(path, "r:") as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isreg() else None
            if content is None or kind_of(member.name) is None:
                raise ValueError(f"{member.name} is in no such folder")
            with content, (folder / member.name).open("wb") as target:
                shutil.copyfileobj(content, target, 2**20)
    return folder
