"""How much an upload may be: every bound of the gate that an operator can set, and how the child is told."""

import json
from dataclasses import asdict, dataclass

CHUNK_BYTES = 2**18
"""Fits a processor's cache; a multiple of every element's size, so that no element is cut."""


@dataclass(frozen=True)
class Limits:
    """`memory_bytes`, `seconds`: of the gate's process. The others: of what is in an upload."""

    memory_bytes: int = 2 * 2**30
    seconds: int = 300
    program_bytes: int = 64 * 2**20
    nodes: int = 50_000
    tensors: int = 20_000
    tensor_bytes: int = 64 * 2**30
    """The largest intermediate tensor that a program may declare."""
    dataset_bytes: int = 16 * 2**30
    """The most that an archive of arrays may unpack to."""
    folder_bytes: int = 16 * 2**30
    """The most that an archive of a Hugging Face folder may unpack to."""

    def as_json(self) -> str:
        """Return text that `from_json` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, data: str) -> "Limits":
        """Return the limits that `as_json` wrote."""
        return cls(**json.loads(data))
