"""A profile: a file with the statistics of each layer's input from one calibration pass.

With it, another recipe on the same model, samples and batch size needs no forward pass.

    <layer>.histogram    int64 [4096], the counts of histogram.py
    <layer>.channels     float32 [3, C], minimum, maximum and mean magnitude of each channel of channels.py

The header has one JSON object `zeropoint.profile`: schema version, key, versions, sample counts, and the scalar fields
of `Statistics` by layer. The same statistics give the same bytes.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, FiniteFloat, NonNegativeInt, PositiveInt, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor, float32, int64

from zeropoint.errors import InvalidProfile
from zeropoint.files.safetensors import save_tensors
from zeropoint.observers.channels import ChannelStatistics
from zeropoint.observers.histogram import BINS, Histogram
from zeropoint.observers.statistics import Statistics
from zeropoint.schema.versions import versions

SCHEMA_VERSION = 2
HEADER_KEY = "zeropoint.profile"
CALIBRATE_AGAIN = "Leave the profile out to calibrate with a forward pass, and keep the new profile."


@dataclass(frozen=True)
class Profile:
    """Statistics by layer, and the samples they come from. `reused`: they were read from a file, without a pass."""

    layers: dict[str, Statistics]
    samples: int
    batches: int
    batch_size: int
    reused: bool = False


class LayerEntry(BaseModel):
    """One layer in the header; `histogram` is (exponent, zeros), whose counts are stored as a tensor."""

    model_config = ConfigDict(extra="forbid")
    count: PositiveInt
    minimum: FiniteFloat
    maximum: FiniteFloat
    early: tuple[FiniteFloat, FiniteFloat] | None
    histogram: tuple[int, NonNegativeInt] | None
    positions: PositiveInt | None
    """Values per channel; None when single channels were not observed."""


class ProfileHeader(BaseModel):
    """The JSON object of the file."""

    model_config = ConfigDict(extra="forbid")
    schema_version: int
    key: str
    versions: dict[str, str]
    samples: PositiveInt
    batches: PositiveInt
    batch_size: PositiveInt
    layers: dict[str, LayerEntry]


def profile_key(model: str, dataset: str, samples: int, batch_size: int) -> str:
    """Return the SHA-256 of everything that determines the statistics.

    This is the hashes of model and samples, the sample count, the batch size, and the versions of torch and the schema.
    """
    parts = {
        "schema_version": SCHEMA_VERSION,
        "model": model,
        "dataset": dataset,
        "samples": samples,
        "batch_size": batch_size,
        "torch": versions()["torch"],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def save_profile(profile: Profile, key: str, path: Path) -> None:
    """Write the file, without layers that saw NaN or infinity. Raises OSError when the file can't be written."""
    kept = {name: statistics for name, statistics in profile.layers.items() if statistics.finite}
    header = ProfileHeader(
        schema_version=SCHEMA_VERSION,
        key=key,
        versions=versions(),
        samples=profile.samples,
        batches=profile.batches,
        batch_size=profile.batch_size,
        layers={name: _entry(statistics) for name, statistics in kept.items()},
    )
    histograms = {f"{name}.histogram": statistics.histogram for name, statistics in kept.items()}
    counts = {name: histogram.counts for name, histogram in histograms.items() if histogram is not None}
    channels = {f"{n}.channels": part.channels.stacked for n, part in kept.items() if part.channels is not None}
    save_tensors(counts | channels, path, {HEADER_KEY: header.model_dump(mode="json")})


def load_profile(path: Path, key: str) -> Profile:
    """Read the file. Raises InvalidProfile when it is damaged, or was not made for `key`."""
    try:
        with safe_open(path, framework="pt") as file:
            header = ProfileHeader.model_validate_json((file.metadata() or {}).get(HEADER_KEY, ""))
            names = set(file.keys())
            tensors = {name: file.get_tensor(name) for name in names}
        layers = {name: _statistics(name, entry, tensors) for name, entry in header.layers.items()}
    except (SafetensorError, OSError, ValidationError, ValueError) as error:
        raise InvalidProfile(
            "profile_invalid", "The file is not a profile of this version.", CALIBRATE_AGAIN
        ) from error
    if header.schema_version != SCHEMA_VERSION or header.key != key:
        raise InvalidProfile(
            "profile_does_not_match",
            "The profile was made from another model, dataset, number of samples, batch size or version of torch.",
            CALIBRATE_AGAIN,
        )
    return Profile(layers, header.samples, header.batches, header.batch_size, reused=True)


def _entry(statistics: Statistics) -> LayerEntry:
    histogram = statistics.histogram
    return LayerEntry(
        count=statistics.count,
        minimum=statistics.minimum,
        maximum=statistics.maximum,
        early=statistics.early,
        histogram=histogram and (histogram.exponent, histogram.zeros),
        positions=statistics.channels and statistics.channels.positions,
    )


def _statistics(name: str, entry: LayerEntry, tensors: Mapping[str, Tensor]) -> Statistics:
    counts, stacked = tensors.get(f"{name}.histogram"), tensors.get(f"{name}.channels")
    histogram, channels = None, None
    if entry.histogram is not None:
        if counts is None or counts.dtype != int64 or counts.shape != (BINS,) or int(counts.sum()) != entry.count:
            raise ValueError("counts that don't add up")
        histogram = Histogram(entry.histogram[0], counts, entry.histogram[1])
    if entry.positions is not None:
        if stacked is None or stacked.dtype != float32:
            raise ValueError("channels that are not there")
        channels = ChannelStatistics.restored(entry.positions, stacked)
    return Statistics(entry.count, entry.minimum, entry.maximum, entry.early, histogram, channels)
