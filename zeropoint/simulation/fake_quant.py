"""Simulation: the float module computes as its quantized layers will, in float arithmetic, as long as a block lasts.

    y = layer(x̂, ŵ) + bias [+ outliers],  x̂ = x · pre_quant_scale on the activation's grid

Weights are made float when a layer runs, and given back behind it: one of them is in memory more than the model.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import copy

import torch
from torch import Tensor, nn

from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.primitives.qparams import QParams, dequantize, quantize


@contextmanager
def simulated(layers: Iterable[QuantizedLayer]) -> Iterator[None]:
    """The modules of these layers compute as quantized; the others stay as they are."""
    twins = [SimulatedLayer(layer) for layer in layers if layer.layer.module is not None]
    try:
        for twin in twins:
            twin.install()
        yield
    finally:
        for twin in twins:
            twin.remove()


class SimulatedLayer:
    """One layer's hooks. Its float parameters are put aside while it runs."""

    def __init__(self, layer: QuantizedLayer) -> None:
        assert layer.layer.module is not None
        self._layer, self._module = layer, layer.layer.module
        self._own: dict[str, Tensor | None] = {}
        self._given: Tensor | None = None
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def install(self) -> None:
        """Compute as quantized from now on."""
        self._handles.append(self._module.register_forward_pre_hook(self._begin))
        self._handles.append(self._module.register_forward_hook(self._end))

    def remove(self) -> None:
        """Compute in float again, also where a pass broke off in the middle."""
        for handle in self._handles:
            handle.remove()
        self._restore()

    def _begin(self, module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        values, layer = arguments[0], self._layer
        weight = layer.layer.weight
        self._own = {name: module._parameters.get(name) for name in ("weight", "bias")}
        module._parameters["weight"] = nn.Parameter(
            layer.dequantized_weight.to(weight.device, weight.dtype), requires_grad=False
        )
        if layer.bias is not None:
            module._parameters["bias"] = nn.Parameter(layer.bias.to(weight.device, weight.dtype), requires_grad=False)
        self._given = values if layer.outliers is not None else None
        return (quantize_input(values, layer), *arguments[1:])

    def _end(self, _: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> Tensor:
        given = self._given
        self._restore()
        self._layer.release()
        return output if given is None else output + self._layer.outlier_output(given)

    def _restore(self) -> None:
        self._module._parameters.update(self._own)  # type: ignore[arg-type]
        self._own, self._given = {}, None


def forward_quantized(layer: QuantizedLayer, values: Tensor) -> Tensor:
    """What the quantized layer gives on a float input, by itself; no other hook of its module runs."""
    module = layer.layer.module
    assert module is not None
    twin, own = copy(module), layer.layer.weight
    weight = layer.dequantized_weight.to(own.device, own.dtype)
    bias = layer.layer.bias if layer.bias is None else layer.bias.to(own.device, own.dtype)
    twin.__dict__["_parameters"] = {**module._parameters, "weight": weight, "bias": bias}
    output: Tensor = twin.forward(quantize_input(values, layer))
    layer.release()
    return output + layer.outlier_output(values)


def quantize_input(values: Tensor, layer: QuantizedLayer) -> Tensor:
    """x -> x̂ as the layer's operator is given it, in the dtype of x."""
    values = layer.scale_input(values)
    return values if layer.activation is None else fake_quantize(values, layer.activation.qparams)


def broadcast_channels(channels: Tensor, layer: QuantizedLayer) -> Tensor:
    """[C] in a shape that broadcasts over the layer's input or output."""
    axis = layer.layer.channel_axis
    assert axis is not None
    return channels.reshape(-1, *[1] * (-axis - 1))


def fake_quantize(values: Tensor, qparams: QParams) -> Tensor:
    """x -> x̂ on a per-tensor grid, in the dtype of x; what `qparams` computes, in one sweep over memory."""
    grid = qparams.quant_type
    if grid.dtype.is_floating_point:
        return dequantize(quantize(values, qparams), qparams).to(values.dtype)
    scale, zero_point = float(qparams.scale), int(qparams.zero_point)
    rounded = torch.fake_quantize_per_tensor_affine(values.float(), scale, zero_point, grid.quant_min, grid.quant_max)
    return rounded.to(values.dtype)
