"""Bias correction: subtract the mean error of each output, over calibration samples, from the layer's bias.

    b' = b + E[y] − E[ŷ]        y: of the float model, ŷ: of the quantized model with all layers before it corrected

Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (ICCV 2019), section 4.2,
with means from samples. Correcting one layer after another would take a pass per layer. Here one pass is enough: each
layer is corrected while a batch runs through it, with the means of all batches so far, so that later layers see
corrected inputs. Memory holds one batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from zeropoint.algorithms.context import AlgorithmContext, Layers
from zeropoint.data.dataset import first_of
from zeropoint.data.padding import mask_of, visible
from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.model.hooks import AfterForward, hooked
from zeropoint.schema.algorithms import BiasCorrection
from zeropoint.simulation.fake_quant import broadcast_channels, simulated

MOST_SAMPLES, FEWEST_SAMPLES = 32, 16
"""Bounds on the samples used, otherwise a third of the calibration samples: means settle long before ranges do."""

See = Callable[[str, Tensor], Tensor | None]
"""Called with a layer's name and output; a tensor that it returns replaces the output."""


@dataclass
class Mean:
    """A running mean [out], in float64."""

    total: Tensor | float = 0.0
    count: int = 0

    def add(self, output: Tensor, axis: int) -> None:
        """Add values [..., out, ...] whose outputs are at `axis`."""
        others = [dimension for dimension in range(output.dim()) if dimension != output.dim() + axis]
        # torch sums float32 pairwise, which is exact enough; float64 would copy the whole output
        self.total = self.total + (output.sum(others) if others else output).double()
        self.count += output.numel() // output.shape[axis]

    @property
    def value(self) -> Tensor | float:
        return self.total / max(self.count, 1)


@dataclass
class Error:
    """Mean outputs of a layer: in the float model, and in the quantized one before this layer's correction."""

    axis: int
    exact: Mean
    found: Mean

    @property
    def correction(self) -> Tensor:
        """E[y] − E[ŷ], float32 [out]."""
        return torch.as_tensor(self.exact.value - self.found.value).float()


def correct_biases(_: BiasCorrection, context: AlgorithmContext, layers: Layers) -> Layers:
    """Return corrected layers: those that have a bias of their own, or may get one."""
    # drop an earlier correction, which would be measured as an error
    plain = {name: replace(layer, bias=None) for name, layer in layers.items() if context.has_own_bias(layer.layer)}
    errors = {n: Error(layer.layer.channel_axis or -1, Mean(), Mean()) for n, layer in plain.items()}
    enough = min(MOST_SAMPLES, max(FEWEST_SAMPLES, context.calibration.count // 3))
    for batch in first_of(context.calibration, enough):
        _pass(context, {**layers, **plain}, errors, batch)
    context.source.reset()
    return {n: _corrected(plain[n], error.correction.cpu()) for n, error in errors.items() if error.found.count}


def _pass(context: AlgorithmContext, layers: Layers, errors: dict[str, Error], batch: Sequence[Tensor]) -> None:
    """Run one batch through the float model, then through the quantized one, correcting each layer as it runs."""
    mask = mask_of(batch)

    def see(name: str, output: Tensor) -> None:
        errors[name].exact.add(visible(output, mask), errors[name].axis)

    def correct(name: str, output: Tensor) -> Tensor:
        error = errors[name]
        error.found.add(visible(output, mask), error.axis)
        return output.add_(broadcast_channels(error.correction.to(output.device, output.dtype), layers[name]))

    watched = {name: layers[name] for name in errors}
    with torch.no_grad():
        context.source.reset()
        with hooked(after=_hooks(watched, see)):
            context.source.run(batch)
        context.source.reset()
        with simulated(layers.values()), hooked(after=_hooks(watched, correct)):
            context.source.run(batch)


def _hooks(layers: Layers, see: See) -> list[tuple[nn.Module, AfterForward]]:
    """Return each layer's module with a hook that calls `see` with the layer's output."""

    def hook_for(name: str) -> AfterForward:
        return lambda _, __, output: see(name, output)

    modules = ((name, layer.layer.module) for name, layer in layers.items())
    return [(module, hook_for(name)) for name, module in modules if module is not None]


def _corrected(layer: QuantizedLayer, correction: Tensor) -> QuantizedLayer:
    bias = layer.layer.bias
    dtype = layer.layer.weight.dtype
    base = torch.zeros_like(correction) if bias is None else bias.detach().cpu().float()
    return replace(layer, bias=(base + correction).to(dtype))
