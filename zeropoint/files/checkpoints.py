"""Checkpoints: the state of a long phase, kept in the job folder, so that the job can go on elsewhere.

    FOLDER/checkpoints/<name>.safetensors    tensors, and in the header one JSON object `zeropoint.checkpoint`:
                                             schema_version, key, name, sha256 of the rest, and `state`

A checkpoint may cost time, never the job: one that can't be written is left out, one that was not made for `key`, or is
damaged in any way, is ignored; standard error says so. Phases shorter than `seconds` write none.
"""

import json
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict
from safetensors import safe_open
from torch import Tensor

from zeropoint.files.safetensors import Digest, save_tensors
from zeropoint.schema.report import ResumedPhase

SCHEMA_VERSION = 1
HEADER_KEY = "zeropoint.checkpoint"
SUFFIX = ".safetensors"

State = Mapping[str, Any]
"""What JSON can say exactly: no NaN and no infinity."""
Tensors = Mapping[str, Tensor]
Read = TypeVar("Read")

log = logging.getLogger(__name__)


class CheckpointHeader(BaseModel):
    """The JSON object of the file."""

    model_config = ConfigDict(extra="forbid")
    schema_version: int
    key: str
    name: str
    sha256: str
    state: dict[str, Any]


class Checkpoints:
    """The checkpoints of one job, and the clock that says when the next one is due."""

    def __init__(self, folder: Path | None = None, key: str | None = None, seconds: float = 0.0) -> None:
        """Take a `key` that names all that decides the result; without it, or a folder, nothing is written or read."""
        self.resumed: list[ResumedPhase] = []
        """The phases that went on from a checkpoint."""
        self._folder = folder
        self._key = key
        self._seconds = seconds
        self.begin()

    def begin(self) -> None:
        """Begin a phase: the clock starts."""
        self._began = self._last = monotonic()

    def note_resumed(self, phase: ResumedPhase) -> None:
        """Note that a phase went on from a checkpoint."""
        if phase not in self.resumed:
            self.resumed.append(phase)

    @property
    def due(self) -> bool:
        """Whether a checkpoint is due: enough time passed since the last one, or since the phase began."""
        return self._on and monotonic() - self._last >= self._seconds

    @property
    def long(self) -> bool:
        """Whether the phase took long enough for its result to be kept."""
        return self._on and monotonic() - self._began >= self._seconds

    @property
    def _on(self) -> bool:
        return self._folder is not None and self._key is not None

    def save(self, name: str, state: State, tensors: Tensors) -> None:
        """Write a checkpoint, in place of one of the same name: a reader sees the old one or the new one, whole."""
        if self._folder is None or self._key is None:
            return
        header = CheckpointHeader(
            schema_version=SCHEMA_VERSION, key=self._key, name=name, sha256=_sha256(state, tensors), state=dict(state)
        )
        writing = self._folder / f".{name}"
        try:
            self._folder.mkdir(exist_ok=True)
            save_tensors(tensors, writing, {HEADER_KEY: header.model_dump(mode="json")})
            with writing.open("rb") as file:
                os.fsync(file.fileno())
            writing.replace(self._folder / f"{name}{SUFFIX}")
        except Exception as error:  # the job can do without
            log.warning("checkpoint %s is not kept: %s", name, error)
            with suppress(OSError):
                writing.unlink(missing_ok=True)
        self._last = monotonic()

    def load(self, name: str, read: Callable[[State, Tensors], Read]) -> Read | None:
        """Return what `read` makes of a checkpoint's state and tensors; None when no checkpoint serves.

        `read` raises when it can't use them, and changes nothing then.
        """
        if self._folder is None or self._key is None or not (path := self._folder / f"{name}{SUFFIX}").exists():
            return None
        try:
            return read(*_open(path, self._key, name))
        except Exception as error:  # whatever is wrong with it
            log.warning("checkpoint %s is ignored: %s", name, error)
            return None

    def names(self, prefix: str) -> list[str]:
        """Return the names that begin with `prefix`, in their order."""
        if self._folder is None or self._key is None:
            return []
        return sorted(path.name.removesuffix(SUFFIX) for path in self._folder.glob(f"{prefix}*{SUFFIX}"))


NO_CHECKPOINTS = Checkpoints()


def _open(path: Path, key: str, name: str) -> tuple[State, Tensors]:
    """Return state and tensors of a checkpoint. Raises anything when the file is not whole or not ours."""
    with safe_open(path, framework="pt") as file:
        header = CheckpointHeader.model_validate_json((file.metadata() or {}).get(HEADER_KEY, ""))
        tensors = {tensor: file.get_tensor(tensor) for tensor in list(file.keys())}
    if (header.schema_version, header.key, header.name) != (SCHEMA_VERSION, key, name):
        raise ValueError("it was made by another job or version")
    if header.sha256 != _sha256(header.state, tensors):
        raise ValueError("it is damaged")
    return header.state, tensors


def _sha256(state: State, tensors: Tensors) -> str:
    """Return the sum over everything that a reader relies on: the format itself has no checksum."""
    digest = Digest()
    digest.add_text(json.dumps(state, sort_keys=True, allow_nan=False))
    for name, tensor in sorted(tensors.items()):
        digest.add(name, tensor)
    return digest.hex
