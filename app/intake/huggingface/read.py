"""Read an unpacked Hugging Face folder without transformers: the network's class, its config and its tensors.

Files are opened by the names that we gave them. The network itself is built by the job, in its sandbox.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.errors import Invalid
from app.intake.huggingface.config import read_config
from app.intake.huggingface.unpack import UnpackedFolder, refused, shown
from app.intake.huggingface.weights import form_of, read_weights
from app.intake.tensors.safetensors import Stored

FOREIGN_WEIGHTS = re.compile(
    r"[^/]*\.(bin|pt|pth|pkl|pickle|h5|msgpack|ckpt|joblib|npz|onnx|ot|gguf|safetensors)", re.IGNORECASE
)
SAVE_SAFETENSORS = "Save the weights with model.save_pretrained(FOLDER), which writes safetensors."


@dataclass(frozen=True)
class CheckpointTensor:
    """A tensor of a checkpoint: our name of the file that holds it, dtype, shape."""

    file: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Checkpoint:
    """A transformers network as data: enough to build it and to check that its tensors fit."""

    model_type: str
    architecture: str
    config: dict[str, Any]
    tensors: dict[str, CheckpointTensor]
    parameters: int
    shards: tuple[tuple[Stored, ...], ...]
    """The tensors of each file, in the order of their names."""
    dropped: tuple[str, ...] = ()
    """Keys of config.json that the network does not have."""


def read_checkpoint(folder: Path, unpacked: UnpackedFolder) -> Checkpoint:
    """Check the files of `unpack_folder`, including every value of the weights. Raises Invalid with the location."""
    files = unpacked.files
    configs, form = [file for file in files if file.kind == "config"], form_of(files)
    if not configs or form is None:
        raise _incomplete(unpacked)
    config = read_config((folder / configs[0].file).read_bytes())
    shards = read_weights(folder, files, form)
    tensors = {
        tensor.name: CheckpointTensor(shards.files[name], tensor.dtype, tensor.shape)
        for name, stored in shards.stored.items()
        for tensor in stored
    }
    return Checkpoint(
        config.model_type,
        config.architecture,
        config.values,
        tensors,
        shards.parameters,
        tuple(shards.stored.values()),
        config.dropped,
    )


def _incomplete(unpacked: UnpackedFolder) -> Invalid:
    """Return the refusal of a folder without a config or weights, which names weights in another format."""
    detail = "The folder needs config.json and model.safetensors or pytorch_model.bin (or shards with their index)."
    for name, _ in unpacked.left_out:
        if FOREIGN_WEIGHTS.fullmatch(name):
            detail = f"{shown(name)} may hold a pickle, or weights in an unsupported format. {detail}"
            return Invalid("model_format_unsupported", detail, SAVE_SAFETENSORS)
    return refused(detail)
