"""`model.pt`: a whole module in torch's own format, without its class; `torch.load(path, weights_only=True)` reads it.

    {"metadata": {key: JSON string}, "tensors": {name: tensor}}

The metadata equals the header of `model.safetensors`; names that share a tensor still share it here.
"""

import json
from pathlib import Path

import torch

from zeropoint.formats.metadata import describe
from zeropoint.layers.result import Quantized
from zeropoint.schema.report import Report

METADATA = "metadata"
TENSORS = "tensors"


def write_torch_checkpoint(quantized: Quantized, path: Path) -> None:
    """Write the file. Raises OSError when the disk can't take it."""
    _write(quantized, path, None)


def record_torch_checkpoint(quantized: Quantized, path: Path, report: Report) -> None:
    """Write the file again, with what validation measured. Raises OSError."""
    _write(quantized, path, report)


def _write(quantized: Quantized, path: Path, report: Report | None) -> None:
    metadata = {key: json.dumps(value, sort_keys=True) for key, value in describe(quantized, {}, report).items()}
    torch.save({METADATA: metadata, TENSORS: quantized.tensors}, path)
