"""Read an unpacked Hugging Face folder without transformers: the network's class, its config and its tensors.

Files are opened by the names that we gave them. The network itself is built by the job, in its sandbox.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.errors import Invalid
from app.intake.huggingface.config import read_config
from app.intake.huggingface.unpack import FolderFile, UnpackedFolder, refused, shown
from app.intake.parsing.strict_json import read_json
from app.intake.tensors.read import plan_weights
from app.intake.tensors.safetensors import MAX_TENSORS, NAME

WHOLE = "model.safetensors"
FOREIGN_WEIGHTS = re.compile(
    r"[^/]*\.(bin|pt|pth|pkl|pickle|h5|msgpack|ckpt|joblib|npz|onnx|ot|gguf|safetensors)", re.IGNORECASE
)
SAVE_SAFETENSORS = "Save the weights with model.save_pretrained(FOLDER), which writes safetensors."
MAX_INDEX_VALUES = 4 * MAX_TENSORS

_SHARD = re.compile(r"model-(\d{5})-of-(\d{5})\.safetensors")


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


def read_checkpoint(folder: Path, unpacked: UnpackedFolder) -> Checkpoint:
    """Check the files of `unpack_folder`, including every value of the weights. Raises Invalid with the location."""
    files = unpacked.files
    by_kind = {kind: [file for file in files if file.kind == kind] for kind in ("config", "weights", "index")}
    if not by_kind["config"] or not by_kind["weights"]:
        raise _incomplete(unpacked)
    config = read_config(_bytes(folder, by_kind["config"]))
    places = _read_index(_bytes(folder, by_kind["index"])) if by_kind["index"] else None
    shards = {file.name: file.file for file in by_kind["weights"]}
    _check_shards(set(shards), places)
    tensors, parameters = _read_tensors(folder, shards, places)
    if places is not None and len(places) != len(tensors):
        raise refused(f"{min(set(places) - set(tensors))} is in the index but in no file.")
    return Checkpoint(config.model_type, config.architecture, config.values, tensors, parameters)


def _incomplete(unpacked: UnpackedFolder) -> Invalid:
    """Return the refusal of a folder without a config or weights, which names weights in another format."""
    detail = "The folder needs config.json and model.safetensors (or its shards with their index)."
    for name, _ in unpacked.left_out:
        if FOREIGN_WEIGHTS.fullmatch(name):
            detail = f"{shown(name)} may hold a pickle, or weights in an unsupported format. {detail}"
            return Invalid("model_format_unsupported", detail, SAVE_SAFETENSORS)
    return refused(detail)


def _bytes(folder: Path, files: Sequence[FolderFile]) -> bytes:
    return (folder / files[0].file).read_bytes()


def _read_tensors(
    folder: Path, shards: dict[str, str], places: dict[str, str] | None
) -> tuple[dict[str, CheckpointTensor], int]:
    """Return every tensor by name, and the number of parameters."""
    tensors: dict[str, CheckpointTensor] = {}
    parameters = 0
    for name, file in sorted(shards.items()):
        plan = plan_weights(folder / file)
        parameters += plan.facts.parameters
        for stored in plan.stored:
            if places is not None and places.get(stored.name) != name:
                raise refused(f"{stored.name} is in {name}, but the index does not list it there.")
            tensors[stored.name] = CheckpointTensor(file, stored.dtype, stored.shape)
    return tensors, parameters


def _read_index(data: bytes) -> dict[str, str]:
    """Return the file of each tensor, from the index."""
    where = "model.safetensors.index.json"
    document = read_json(data, lambda detail: refused(f"{where} {detail}."), MAX_INDEX_VALUES)
    places = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(places, dict) or not 1 <= len(places) <= MAX_TENSORS:
        raise refused(f"{where}: weight_map is missing, or not an object of 1 to {MAX_TENSORS} tensors.")
    for name, file in places.items():
        if not NAME.fullmatch(name) or not isinstance(file, str) or not (_SHARD.fullmatch(file) or file == WHOLE):
            raise refused(f"{where}: weight_map may map tensor names only to files model-NNNNN-of-NNNNN.safetensors.")
    return places


def _check_shards(names: set[str], places: dict[str, str] | None) -> None:
    """Raise Invalid unless the weights are one whole file, or a complete set of shards with an index."""
    if places is None and names != {WHOLE}:
        raise refused("Weights in more than one file need model.safetensors.index.json.")
    if places is not None and set(places.values()) != names:
        raise refused("The files of weights are not the ones that model.safetensors.index.json names.")
    matches = [match for match in map(_SHARD.fullmatch, names) if match]
    numbers = sorted(int(match[1]) for match in matches)
    if matches and (len(matches) != len(names) or {int(match[2]) for match in matches} != {len(numbers)}):
        raise refused("The files of weights are not one complete set.")
    if matches and numbers != list(range(1, len(numbers) + 1)):
        raise refused("The files of weights are not numbered from 00001 without a gap.")
