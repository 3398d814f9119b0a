"""`model.pt`: a whole module in torch's own format, without its class; `torch.load(path, weights_only=True)` reads it.

    {"metadata": {key: JSON string}, "tensors": {name: tensor}}

The metadata equals the header of `model.safetensors`; names that share a tensor still share it here.
"""

import json
from pathlib import Path

import torch

from zeropoint.formats.safetensors import describe
from zeropoint.layers.result import Quantized

METADATA = "metadata"
TENSORS = "tensors"


def write_torch_checkpoint(quantized: Quantized, path: Path) -> None:
    """Write the file. Raises OSError when the disk can't take it."""
    metadata = {key: json.dumps(value, sort_keys=True) for key, value in describe(quantized, {}).items()}
    torch.save({METADATA: metadata, TENSORS: quantized.tensors}, path)
