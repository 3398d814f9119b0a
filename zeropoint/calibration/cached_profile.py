"""Profiles in files: one key for a job on disk and for data in memory, so that a profile of one serves the other.

The key hashes what decides the statistics: the model's tensors and structure, and every batch that calibrates.
"""

from pathlib import Path

from zeropoint.calibration.collect import collect, everything
from zeropoint.calibration.profile import Profile, load_profile, profile_key, save_profile
from zeropoint.data.batches import Batches
from zeropoint.files.checkpoints import NO_CHECKPOINTS, Checkpoints
from zeropoint.files.safetensors import Digest
from zeropoint.model.source import Source
from zeropoint.schema.job import ProgressCallback


def cached_profile(
    source: Source,
    samples: Batches,
    step: ProgressCallback,
    *,
    load: Path | None = None,
    save: Path | None = None,
    checkpoints: Checkpoints = NO_CHECKPOINTS,
) -> Profile:
    """Return the statistics of every layer, for any recipe: read from `load`, else collected; written to `save`.

    Raises InvalidProfile when the file is damaged or was made from another model or other samples, InvalidSamples when
    a sample isn't finite, OSError when `save` can't be written.
    """
    key = key_of(source, samples)
    if load is not None:
        profile = load_profile(load, key)
    else:
        profile = collect(source, source.layers, samples, step, everything(source.layers), checkpoints=checkpoints)
    if save is not None:
        save_profile(profile, key, save)
    return profile


def key_of(source: Source, samples: Batches) -> str:
    """Return the key of these samples through this model. One block of a tensor and one batch are in memory."""
    model, dataset = Digest(), Digest()
    model.add_text(source.structure)
    for name, tensor in sorted(source.uploaded.items()):
        model.add_blocks(name, tensor.dtype, tuple(tensor.shape), source.blocks(name))
    for number, batch in enumerate(samples):
        for position, tensor in enumerate(batch):
            dataset.add(f"{number}.{position}", tensor)
    # a data set smaller than a batch is one batch, whatever its size could be
    return profile_key(model.hex, dataset.hex, samples.count, min(samples.batch_size, samples.count))
