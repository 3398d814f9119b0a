"""Read named tensors for their purpose: samples of a dataset, or weights without a network.

Reading has two steps: a plan is made from checked headers and values, then the plan writes a fresh safetensors file.
The stored file is never a copy of the upload.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Generic, TypeVar

from app.errors import Invalid
from app.intake.archives.zip import MAGIC as ZIP
from app.intake.facts import DatasetInfo, Model, Weights
from app.intake.parsing.names import is_name
from app.intake.parsing.strict_json import Refuse
from app.intake.tensors.finite import first_invalid_value, index_of
from app.intake.tensors.npy import MAGIC as NPY
from app.intake.tensors.npy import SAVE_SAMPLES, read_npy
from app.intake.tensors.npz import read_npz
from app.intake.tensors.safetensors import MAX_TENSORS, Stored, read_stored, write_stored

DEFAULT_NAME = "x"
"""The name of a tensor that has none in its file."""

_SAVE_WEIGHTS = "Save the weights with safetensors: save_file(model.state_dict(), 'model.safetensors')."
_NPY_FILE = re.compile(r"([A-Za-z_][A-Za-z0-9_]{0,63})\.npy")

Facts = TypeVar("Facts", DatasetInfo, Weights, Model)


@dataclass(frozen=True)
class Plan(Generic[Facts]):
    """The checked contents of a file, and the fresh file to write."""

    facts: Facts
    stored: tuple[Stored, ...]

    def write(self, target: BinaryIO) -> None:
        """Write a fresh safetensors file; memory stays constant."""
        write_stored(self.stored, target)


def plan_samples(path: Path, max_bytes: int, name: str = DEFAULT_NAME) -> Plan[DatasetInfo]:
    """Check a dataset (.safetensors, .npy, .npz), including every value. Raises Invalid with what is wrong, and where.

    `max_bytes` bounds what an .npz unpacks to; `name` is for the tensor of an .npy, which has none.
    """
    stored = _read_dataset(path, max_bytes, name)
    facts = _samples(stored)
    _check_values(stored, _samples_refused, _non_finite_samples)
    return Plan(facts, stored)


def stored_weights(path: Path) -> tuple[Stored, ...]:
    """Return the tensors of a weights file, from its header. Raises Invalid with what is wrong, and where."""
    return read_stored(path, _weights_refused)


def plan_weights(path: Path) -> Plan[Weights]:
    """Check a safetensors file of weights, including every value. Raises Invalid with what is wrong, and where."""
    return plan_stored(stored_weights(path))


def plan_stored(stored: tuple[Stored, ...]) -> Plan[Weights]:
    """Check weights, including every value. Raises Invalid with what is wrong, and where."""
    facts = weights_facts(stored)
    _check_values(stored, _weights_refused, _non_finite_weights)
    return Plan(facts, stored)


def name_for(filename: str | None) -> str:
    """Return the tensor's name for an .npy with this file name: the part before .npy if it is an identifier."""
    match = _NPY_FILE.fullmatch(filename or "")
    return match[1] if match and is_name(match[1]) else DEFAULT_NAME


def _samples_refused(detail: str) -> Invalid:
    return Invalid("dataset_invalid", detail, SAVE_SAMPLES)


def _weights_refused(detail: str) -> Invalid:
    return Invalid("weights_invalid", detail, _SAVE_WEIGHTS)


def _non_finite_samples(detail: str) -> Invalid:
    return Invalid("non_finite_samples", detail, "Remove or repair these samples and upload again.")


def _non_finite_weights(detail: str) -> Invalid:
    return Invalid("non_finite_weights", detail, "Train or repair the model and upload again.")


def _read_dataset(path: Path, max_bytes: int, name: str) -> tuple[Stored, ...]:
    with path.open("rb") as file:
        head = file.read(8)
    if head.startswith(NPY):
        return (read_npy(path, name),)
    if head.startswith(ZIP):
        return read_npz(path, max_bytes)
    return read_stored(path, _samples_refused)


def _samples(stored: tuple[Stored, ...]) -> DatasetInfo:
    if not stored:
        raise _samples_refused(f"The file holds 0 tensors; a dataset has 1 to {MAX_TENSORS}.")
    for item in stored:
        if not item.shape or item.shape[0] == 0:
            raise _samples_refused(f"{item.name}: the first dimension counts samples and must be 1 or more.")
    counts = {item.shape[0] for item in stored}
    if len(counts) > 1:
        listed = ", ".join(f"{item.name} has {item.shape[0]}" for item in stored[:5])
        raise _samples_refused(f"Every tensor needs the same number of samples: {listed}.")
    return DatasetInfo(counts.pop(), tuple(item.tensor for item in stored))


def weights_facts(stored: tuple[Stored, ...]) -> Weights:
    """Return the facts about tensors that are weights. Raises Invalid if there are none."""
    if not stored:
        raise _weights_refused("The file holds 0 tensors.")
    return Weights(tuple(item.tensor for item in stored), sum(math.prod(item.shape) for item in stored))


def _check_values(stored: tuple[Stored, ...], refuse: Refuse, refuse_non_finite: Refuse) -> None:
    for item in stored:
        flat = first_invalid_value(item.dtype, item.chunks())
        if flat is None:
            continue
        where = index_of(flat, item.shape)
        if item.dtype == "bool":
            raise refuse(f"Tensor {item.name!r} holds a bool that is neither 0 nor 1, first at index {where}.")
        raise refuse_non_finite(f"Tensor {item.name!r} holds NaN or infinity, first at index {where}.")
