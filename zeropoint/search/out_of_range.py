"""What fresh samples outside the calibrated ranges will cost: noise that few samples hardly show.

Static ranges come from n samples. A fresh sample exceeds the largest of them with probability 1 / (n + 1), however its
values are distributed, and then makes tens of times the usual noise: 1 of 70 samples may halve an SQNR, and 24 held-out
samples mostly have none such. So it is predicted, from the k largest samples of each layer and side:

    u, x₁      the (k + 1)-th largest sample and the largest one          β = mean of (x_i − u), i ≤ k
    E(r)       = c(r) · 2β² · e^{−max(r − x₁, 0) / β}      energy beyond the range's end r that n fresh samples have
    noise(r)   = noise of the calibration samples with all ranges ending at u, beyond what they have · max E(r) / E(u)

Beyond a high threshold excesses are exponential (Pickands, Annals of Statistics 1975, with shape 0), with mean β and
mean square 2β². c(r) is an upper bound on how many of n fresh samples are beyond r: 3 where none of n was (the rule of
three). All ranges end at u in one pass, so that the noise of an excess is measured, through all layers behind it.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn

from zeropoint.data.batches import Batches
from zeropoint.data.padding import mask_of
from zeropoint.layers.quantized_layer import Activation, QuantizedLayer, input_spec
from zeropoint.model.hooks import hooked
from zeropoint.model.source import Source
from zeropoint.simulation.measure import Evaluator

LARGEST = 10
"""At least so many of the largest samples tell how far values lie apart there, of many √n."""
SPREAD = 3.3
"""k excesses may have a mean square that is 1 + 3.3 / √k times too small."""
HEADROOMS = (2.0, 4.0)
"""In β: by so much wider ranges leave e^-2 and e^-4 of the energy beyond them, 9 and 17 dB less."""


@dataclass(frozen=True)
class Tail:
    """One side of a layer's inputs, values below as negatives: the largest sample, u, β, and the sum of (x_i − u)²."""

    largest: float
    threshold: float
    excess: float
    energy: float
    samples: Tensor
    """float64 [n], the largest value of each sample."""

    @classmethod
    def of(cls, samples: Tensor) -> "Tail":
        """Return the tail of the largest values of the samples [n]."""
        count = min(max(LARGEST, round(math.sqrt(len(samples)))), len(samples) - 1)
        top = samples.double().topk(count + 1).values
        above = top[:-1] - top[-1]
        return cls(float(top[0]), float(top[-1]), float(above.mean()), float(above.square().sum()), samples.double())

    def share(self, end: float) -> float:
        """Return E(r) / E(u) for a range that ends at r; 0 where the largest samples are all the same."""
        if not self.energy > 0:
            return 0.0
        beyond = int((self.samples > end + 1e-6 * abs(end)).sum())
        most = beyond + 3 + 1.75 * math.sqrt(beyond)
        count = int((self.samples > self.threshold).sum())
        usual = (1 + SPREAD / math.sqrt(count)) * max(2 * self.excess**2, self.energy / count)
        return most * usual * math.exp(-max(end - self.largest, 0.0) / self.excess) / self.energy


@dataclass(frozen=True)
class Tails:
    """Both sides of a layer's inputs, and the factor with which they were multiplied."""

    low: Tail
    high: Tail
    scale: Tensor | None


@dataclass
class OutOfRange:
    """The calibration samples, and the tails of layers' inputs on them that are known so far."""

    source: Source
    samples: Batches
    evaluator: Evaluator
    _known: dict[str, Tails] = field(default_factory=dict)

    @classmethod
    def on(cls, source: Source, samples: Batches) -> "OutOfRange":
        """Return what measures on these samples, those that gave the ranges."""
        return cls(source, samples, Evaluator(source, samples))

    def ratio(self, layers: Mapping[str, QuantizedLayer]) -> float:
        """Return an upper bound on the noise beyond the ranges, as a share of the signal; 0 where none is known.

        Infinite where there are too few samples to say. Batches whose samples can't be told apart don't show it.
        """
        if self.samples.count < LARGEST + 2 and any(layer.activation is not None for layer in layers.values()):
            return math.inf
        tails = self._tails(layers)
        shares = [share for name, tail in tails.items() for share in _shares(tail, layers[name])]
        if not shares or max(shares) <= 0:
            return 0.0
        narrow = [_narrowed(layer, tails.get(name)) for name, layer in layers.items()]
        usual, cut = self.evaluator.noise(layers.values()), self.evaluator.noise(narrow)
        noise = (cut.noise / cut.signal - usual.noise / usual.signal) if usual.signal > 0 and cut.signal > 0 else 0.0
        return max(noise, 0.0) * max(shares) if math.isfinite(noise) else math.inf

    def widened(self, layers: Mapping[str, QuantizedLayer], headroom: float) -> dict[str, QuantizedLayer]:
        """Return the layers with ranges that end `headroom` times β beyond the largest samples."""
        tails = self._tails(layers)
        return {name: _widened(layer, tails.get(name), headroom) for name, layer in layers.items()}

    def _tails(self, layers: Mapping[str, QuantizedLayer]) -> dict[str, Tails]:
        """Return the tails of layers with static inputs; a layer whose factor changed is observed again."""
        static = {name: layer for name, layer in layers.items() if layer.activation is not None}
        new = {n: layer for n, layer in static.items() if n not in self._known or not _same(self._known[n], layer)}
        for name, (low, high) in self._extremes(new).items():
            if len(low) >= LARGEST + 2:
                self._known[name] = Tails(Tail.of(-low), Tail.of(high), new[name].pre_quant_scale)
        return {n: self._known[n] for n, one in static.items() if n in self._known and _same(self._known[n], one)}

    def _extremes(self, layers: Mapping[str, QuantizedLayer]) -> dict[str, tuple[Tensor, Tensor]]:
        """Return the smallest and the largest input of each sample, [n] each, of layers where samples can be told."""
        found: dict[str, list[Tensor]] = {name: [] for name in layers}
        modules = {name: layer.layer.module for name, layer in layers.items()}
        if not layers:
            return {}
        with torch.no_grad():
            for batch in self.samples:
                count = len(batch[0]) if batch[0].dim() else 1
                looks = [
                    (module, partial(_look, layers[name], found[name], count, mask_of(batch)))
                    for name, module in modules.items()
                    if module is not None
                ]
                with hooked(before=looks):
                    self.source.run(batch)
        self.source.reset()
        total = self.samples.count
        joined = {name: torch.cat(parts, 1) for name, parts in found.items() if parts}
        return {name: (both[0], both[1]) for name, both in joined.items() if both.shape[1] == total}


def _look(
    layer: QuantizedLayer,
    found: list[Tensor],
    count: int,
    mask: Tensor | None,
    _: nn.Module,
    arguments: tuple[Tensor, ...],
) -> None:
    values = arguments[0]
    if values.dim() == 0 or not values.numel() or len(values) % count:
        return
    values = layer.scale_input(values).detach()
    if mask is not None and values.shape[:2] == mask.shape:
        hidden = ~mask.bool().reshape(*mask.shape, *[1] * (values.dim() - 2))
        low, high = values.masked_fill(hidden, math.inf), values.masked_fill(hidden, -math.inf)
    else:
        low = high = values
    found.append(torch.stack([low.reshape(count, -1).amin(1), high.reshape(count, -1).amax(1)]).double().cpu())


def _same(tails: Tails, layer: QuantizedLayer) -> bool:
    return tails.scale is layer.pre_quant_scale


def _shares(tails: Tails, layer: QuantizedLayer) -> Iterator[float]:
    """Yield E(r) / E(u) of both sides."""
    for tail, end in zip((tails.low, tails.high), _ends(layer), strict=True):
        yield tail.share(end)


def _ends(layer: QuantizedLayer) -> tuple[float, float]:
    """Return where the range ends below, as a negative, and above; symmetric ranges end alike."""
    assert layer.activation is not None
    low, high = -layer.activation.minimum, layer.activation.maximum
    return (max(low, high),) * 2 if layer.activation.settings.scheme == "symmetric" else (low, high)


def _narrowed(layer: QuantizedLayer, tails: Tails | None) -> QuantizedLayer:
    """Return the layer with a range that ends at u on both sides."""
    if tails is None or layer.activation is None:
        return layer
    return ranged(layer, -tails.low.threshold, tails.high.threshold)


def _widened(layer: QuantizedLayer, tails: Tails | None, headroom: float) -> QuantizedLayer:
    """Return the layer with a range that ends beyond the largest samples, also where it was clipped."""
    if tails is None or layer.activation is None:
        return layer
    sides = zip((tails.low, tails.high), (-layer.activation.minimum, layer.activation.maximum), strict=True)
    low, high = (max(end, tail.largest + headroom * tail.excess) for tail, end in sides)
    return ranged(layer, -low, high)


def ranged(layer: QuantizedLayer, minimum: float, maximum: float) -> QuantizedLayer:
    """Return a layer with a static input with the qparams of another range."""
    assert layer.activation is not None
    settings = layer.activation.settings
    spec = input_spec(layer.layer, settings)
    low, high = torch.tensor(min(minimum, maximum)), torch.tensor(max(minimum, maximum))
    return replace(layer, activation=Activation.choose(settings, spec, low, high))
