"""A profile for calls in memory: read from its file when it is there, else collected in the one pass and written.

The key hashes what decides the statistics: the model's tensors, and every tensor that was calibrated on.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from zeropoint.calibration.collect import collect, everything
from zeropoint.calibration.profile import Profile, load_profile, profile_key, save_profile
from zeropoint.data.batches import Batches
from zeropoint.files.safetensors import Digest
from zeropoint.model.source import Source
from zeropoint.schema.job import ProgressCallback


def profile_at(path: Path, source: Source, calls: Batches, step: ProgressCallback) -> Profile:
    """The profile in the file, without a forward pass; a missing file is made.

    Raises InvalidProfile when it is damaged or was made from another model or other samples, OSError when it can't be
    written. The calls are read in both cases: they must be the same ones.
    """
    hashed = Hashed(calls)
    model = Digest()
    for name, tensor in sorted(source.tensors.items()):
        model.add(name, tensor)
    if path.exists():
        for _ in hashed:
            pass
        return load_profile(path, profile_key(model.hex, hashed.digest.hex, hashed.count, hashed.batch_size))
    profile = collect(source, source.layers, hashed, step, everything(source.layers))
    save_profile(profile, profile_key(model.hex, hashed.digest.hex, hashed.count, hashed.batch_size), path)
    return profile


class Hashed:
    """Batches that are hashed as they pass."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self.digest = Digest()

    @property
    def count(self) -> int:
        return self._batches.count

    @property
    def batch_size(self) -> int:
        return self._batches.batch_size

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Sequence[Tensor]]:
        for number, batch in enumerate(self._batches):
            for position, tensor in enumerate(batch):
                self.digest.add(f"{number}.{position}", tensor)
            yield batch
