"""Pictures as tensors: photographs of an installed package, and squares cut out of them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.models.files import package_file


def photograph(name: str) -> Tensor:
    """One of scikit-image's photographs, RGB in 0..255, float32 [3, height, width]."""
    return to_tensor(open_picture(package_file("skimage", f"data/{name}")).convert("RGB"))


def open_picture(path: Path) -> Any:
    """A picture file."""
    from PIL import Image  # noqa: PLC0415 - models without pictures do without

    return Image.open(path)


def to_tensor(picture: Any) -> Tensor:
    """RGB picture -> float32 [3, height, width] in 0..255"""
    return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1).float()


def crop(picture: Tensor, side: int, random: np.random.Generator) -> Tensor:
    """A square somewhere in a picture."""
    _, height, width = picture.shape
    top, left = random.integers(height - side + 1), random.integers(width - side + 1)
    return picture[:, top : top + side, left : left + side]
