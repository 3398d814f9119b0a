"""A Hugging Face folder on disk: the tar that the gate wrote, unpacked, and which tensor lies in which file.

Nothing is read but headers; a tensor is mapped when it is asked for.
"""

import json
import shutil
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from quantization.errors import InvalidModel
from quantization.folder_files import CARRIED, CONFIG_FILE, KINDS, kind_of

PACK_AGAIN = "Save the network with save_pretrained, and upload that folder."


@dataclass(frozen=True)
class Folder:
    """`places`: tensor name -> file; `shapes`: tensor name -> shape."""

    path: Path
    config: Mapping[str, Any]
    places: Mapping[str, Path]
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def carried(self) -> list[Path]:
        """Files that go out as they came in."""
        return sorted(path for path in self.path.iterdir() if kind_of(path.name) in CARRIED)

    def tensor(self, name: str) -> Tensor:
        """The tensor, mapped from its file."""
        with safe_open(self.places[name], framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor

    def dtype(self) -> torch.dtype:
        """What the network computes in: what config.json says, else the dtype of its first floating weight."""
        said = self.config.get("dtype")
        if said is not None:
            found: torch.dtype = getattr(torch, said)
            return found
        return next((t.dtype for t in map(self.tensor, self.places) if t.is_floating_point()), torch.float32)


def open_folder(path: Path) -> Folder:
    """Open a folder, or unpack the tar of one beside it. Raises InvalidModel."""
    folder = path if path.is_dir() else _unpacked(path)
    try:
        config = json.loads((folder / CONFIG_FILE).read_bytes())
        places, shapes = {}, {}
        for file in sorted(_weights(folder)):
            for name, shape in _headers(file):
                places[name], shapes[name] = file, shape
    except (OSError, ValueError, SafetensorError) as error:
        raise InvalidModel("checkpoint_invalid", "The folder's config or weights can't be read.", PACK_AGAIN) from error
    if not places:
        raise InvalidModel("checkpoint_invalid", "The folder holds no weights as safetensors.", PACK_AGAIN)
    return Folder(folder, config, places, shapes)


def _weights(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if KINDS["weights"].fullmatch(path.name)]


def _headers(file: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    with safe_open(file, framework="pt") as opened:
        for name in opened.keys():  # noqa: SIM118 - not a dict
            yield name, tuple(opened.get_slice(name).get_shape())


def _unpacked(path: Path) -> Path:
    """Copy each file of the tar out, under a name of a checkpoint, into a folder beside it."""
    folder = path.with_suffix(".folder")
    folder.mkdir(exist_ok=True)
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if not member.isreg() or kind_of(member.name) is None:
                    raise InvalidModel("checkpoint_invalid", "The archive holds what no folder has.", PACK_AGAIN)
                content = archive.extractfile(member)
                assert content is not None
                with content, (folder / member.name).open("wb") as target:
                    shutil.copyfileobj(content, target, 2**20)
    except tarfile.TarError as error:
        raise InvalidModel("checkpoint_invalid", "The file is no plain tar of a folder.", PACK_AGAIN) from error
    return folder
