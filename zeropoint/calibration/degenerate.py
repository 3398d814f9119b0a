"""Find samples and ranges from which no useful scale follows: constant samples, and inputs of (nearly) zero width."""

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor

from zeropoint.calibration.profile import Profile
from zeropoint.data.batches import Batches, ModelInputs
from zeropoint.model.hooks import watched
from zeropoint.model.source import Source
from zeropoint.schema.report import ReportWarning

FEWEST_LEVELS = 255
"""An input whose width is less than its magnitude over this takes one or two of the 256 integers."""
MOST_NAMES = 20


def degenerate_ranges(
    profile: Profile, names: Iterable[str], is_fixed: Callable[[list[str]], Collection[str]] = lambda _: ()
) -> list[ReportWarning]:
    """Return a warning that names the layers whose static range holds one value, or nearly so.

    `is_fixed` returns those of them whose input no sample can change; they are left out.
    """
    flat = [name for name in names if name in profile.layers and _is_flat(profile, name)]
    fixed = is_fixed(flat) if flat else ()
    flat = [name for name in flat if name not in fixed]
    if not flat:
        return []
    shown = ", ".join(repr(name) for name in flat[:5])
    layers = "1 layer" if len(flat) == 1 else f"{len(flat)} layers"
    more = f" and {len(flat) - 5} more" if len(flat) > 5 else ""
    return [
        ReportWarning(
            code="degenerate_range",
            detail=f"The input of {layers} is a single value, or nearly so, on all calibration samples: "
            f"{shown}{more}. Other values will be clamped to it.",
            remedy='Calibrate with samples that make these layers\' inputs vary, or name the layers in "exclude".',
            layers=flat[:MOST_NAMES],
        )
    ]


def fixed_inputs(source: Source, batch: Sequence[Tensor], names: Collection[str]) -> set[str]:
    """Return the layers among `names` whose input stays a single value when the batch is replaced by noise.

    Such an input is a constant of the model. Floating tensors get normal noise added, integers change places. A layer
    that the noise does not reach counts as fixed, none if the model can't run on it.
    """
    generator = torch.Generator().manual_seed(0)
    noisy = ModelInputs((_disturbed(tensor, generator) for tensor in batch), _keywords(batch))
    moved: set[str] = set()

    def look(name: str, values: Tensor) -> None:
        if values.numel() and float(values.max()) != float(values.min()):
            moved.add(name)

    modules = {layer.name: layer.module for layer in source.layers if layer.name in names and layer.module is not None}
    try:
        with torch.no_grad(), watched(modules, {name: partial(look, name) for name in modules}):
            source.reset()
            source.run(noisy)
    except Exception:
        return set()
    finally:
        source.reset()
    return set(modules) - moved


def _disturbed(tensor: Tensor, generator: torch.Generator) -> Tensor:
    if tensor.is_floating_point():
        return tensor + torch.randn(tensor.shape, generator=generator).to(tensor.device, tensor.dtype)
    order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
    return tensor.flatten()[order].reshape(tensor.shape)


def _keywords(batch: Sequence[Tensor]) -> tuple[str, ...]:
    return batch.keywords if isinstance(batch, ModelInputs) else ()


def _is_flat(profile: Profile, name: str) -> bool:
    statistics = profile.layers[name]
    low, high = statistics.minimum, statistics.maximum
    return (high - low) * FEWEST_LEVELS <= max(abs(low), abs(high))


def too_few_samples(samples: Batches) -> list[ReportWarning]:
    """Return a warning if a single sample calibrates."""
    if samples.count != 1:
        return []
    return [
        ReportWarning(
            code="single_sample",
            detail="A single sample calibrates. Its smallest and largest values say nothing of other samples, whose "
            "values will be clamped.",
            remedy="Calibrate with 100 samples or more like those that the model will get. If the first dimension of "
            "the inputs is no batch, give each sample as a call of its own.",
        )
    ]


def constant_samples(samples: Batches) -> list[ReportWarning]:
    """Return a warning if the calibration samples don't vary: one value everywhere, or all samples are the same.

    One input that varies is enough: masks and numbers such as a temperature are constant in good samples too. Masks
    that vary don't count where there is another input. Reading stops as soon as the samples vary.
    """
    inputs: list[_Variation] = []
    for batch in samples:
        names = batch.names if isinstance(batch, ModelInputs) else [f"input {place}" for place in range(len(batch))]
        inputs = inputs or [_Variation(name) for name in names]
        for variation, tensor in zip(inputs, batch, strict=True):
            variation.add(tensor)
        if any(each.varies and each.differs for each in _deciding(inputs)):
            return []
    flat = all(not each.varies for each in _deciding(inputs))
    alike = samples.count > 1 and all(not each.differs for each in inputs)
    if not inputs or not (flat or alike):
        return []
    listed = ", ".join(repr(each.name) for each in _deciding(inputs))
    detail = f"Every value of the calibration samples is the same in {listed}" if flat else "All samples are the same"
    return [
        ReportWarning(
            code="constant_samples",
            detail=f"{detail}: ranges chosen from them mean nothing.",
            remedy="Calibrate with samples like those that the model will get.",
        )
    ]


class _Variation:
    """Whether the values of one input vary at all, and whether its samples differ."""

    def __init__(self, name: str) -> None:
        self.name, self.varies, self.differs = name, False, False
        self._row: Tensor | None = None

    def add(self, tensor: Tensor) -> None:
        """Add one batch's tensor, whose first dimension counts samples."""
        if not tensor.numel():
            return
        rows = tensor.reshape(tensor.shape[0] if tensor.dim() else 1, -1)
        self._row = rows[0].clone() if self._row is None else self._row
        self.varies |= bool((rows != self._row[0]).any())
        self.differs |= rows.shape[1] != len(self._row) or not torch.equal(rows, self._row.expand_as(rows))


def _deciding(inputs: Sequence[_Variation]) -> Sequence[_Variation]:
    return [each for each in inputs if not each.name.endswith("mask")] or inputs
