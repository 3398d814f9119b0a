"""Bounds on uploads that an operator can set, and how they are passed to the child process."""

import json
from dataclasses import asdict, dataclass

MOST_TIMES = 100
"""How many times its own size an archive may unpack to: weights and samples shrink a few times at most."""
FREE_BYTES = 256 * 2**20
"""What a small archive may always unpack to: a mask of ones shrinks a thousand times."""

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

    def unpacked_bytes(self, kind: str, packed_bytes: int) -> int:
        """Return the most bytes that an archive of this size may unpack to. `kind`: "model" or "dataset"."""
        most = self.folder_bytes if kind == "model" else self.dataset_bytes
        return min(most, max(FREE_BYTES, MOST_TIMES * packed_bytes))

    def as_json(self) -> str:
        """Return text that `from_json` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, data: str) -> "Limits":
        """Return the limits that `as_json` wrote."""
        return cls(**json.loads(data))
