"""Bounds on uploads that an operator can set, and how they are passed to the child process."""

import json
from dataclasses import asdict, dataclass

CHUNK_BYTES = 2**18
"""Fits a processor's cache; a multiple of every element size, so that no element is split."""


@dataclass(frozen=True)
class Limits:
    """`memory_bytes` and `seconds` limit the gate's process, the others the contents of an upload."""

    memory_bytes: int = 2 * 2**30
    seconds: int = 300
    program_bytes: int = 64 * 2**20
    nodes: int = 50_000
    tensors: int = 20_000
    tensor_bytes: int = 64 * 2**30
    """The largest intermediate tensor that a program may declare."""
    dataset_bytes: int = 16 * 2**30
    """The most bytes that an archive of arrays may unpack to."""
    folder_bytes: int = 16 * 2**30
    """The most bytes that an archive of a Hugging Face folder may unpack to."""

    def as_json(self) -> str:
        """Return text that `from_json` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, data: str) -> "Limits":
        """Return the limits that `as_json` wrote."""
        return cls(**json.loads(data))
