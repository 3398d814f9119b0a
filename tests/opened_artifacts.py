"""Artifacts as they were downloaded, each opened by the software that it is for; nothing of our own reads them here."""

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.ao.quantization.fx._decomposed  # what docs/reference/artifacts.md tells who loads model.pt2
import transformers
from torch import Tensor

from tests.onnx_sessions import session

Files = Mapping[str, bytes]


def run_program(files: Files, x: Tensor) -> Tensor:
    """What `model.pt2` makes of an input."""
    output: Tensor = torch.export.load(io.BytesIO(files["model.pt2"])).module()(x)
    return output


def run_onnx(files: Files, x: Tensor, *, optimized: bool) -> Tensor:
    """What `model.onnx` makes of an input."""
    opened = session(files["model.onnx"], optimized=optimized)
    (given,) = opened.get_inputs()
    return torch.from_numpy(opened.run(None, {given.name: x.numpy()})[0])


def tensors(files: Files) -> dict[str, Tensor]:
    """What `model.safetensors` holds."""
    return safetensors.torch.load(files["model.safetensors"])


def members(files: Files) -> dict[str, bytes]:
    """What `model.tar` holds."""
    with tarfile.open(fileobj=io.BytesIO(files["model.tar"])) as archive:
        return {member.name: read.read() for member in archive if (read := archive.extractfile(member))}


def network(files: Files, folder: Path, kind: str, **options: Any) -> Any:
    """`from_pretrained` of the unpacked `model.tar`, which finds every tensor and has none left."""
    with tarfile.open(fileobj=io.BytesIO(files["model.tar"])) as archive:
        archive.extractall(folder, filter="data")
    loaded, told = getattr(transformers, kind).from_pretrained(folder, output_loading_info=True, **options)
    assert not any(told.values()), told
    return loaded.eval()
