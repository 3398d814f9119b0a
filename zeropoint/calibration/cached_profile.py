"""Profiles in files, with one key for jobs on disk and data in memory, so that either can reuse the other's profile.

The key hashes what determines the statistics: the model's tensors and structure, and every calibration batch.
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
    """Return the statistics of every layer, for any recipe, from the file `load` or else from a forward pass.

    They are written to `save` if it is given. Raises InvalidProfile when the file is damaged or was made from another
    model or other samples, InvalidSamples when a sample isn't finite, OSError when `save` can't be written.
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
    """Return the key for this model and these samples, with one block of a tensor and one batch in memory."""
    model, dataset = Digest(), Digest()
    model.add_text(source.structure)
    for name, tensor in sorted(source.uploaded.items()):
        model.add_blocks(name, tensor.dtype, tuple(tensor.shape), source.blocks(name))
    for number, batch in enumerate(samples):
        for position, tensor in enumerate(batch):
            dataset.add(f"{number}.{position}", tensor)
    # a data set smaller than a batch is one batch, whatever the batch size is
    return profile_key(model.hex, dataset.hex, samples.count, min(samples.batch_size, samples.count))
