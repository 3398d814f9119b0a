"""Simulation: the float module computes as its quantized layers will, in float arithmetic, as long as a block lasts.

    y = layer(x̂, ŵ) + bias [+ outliers],  x̂ = x · pre_quant_scale on the activation's grid

Weights become float when a layer runs and are freed behind it: at any time, memory holds one of them more.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import copy
from functools import partial

import torch
from torch import Tensor

from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.model.hooks import hooked, stay_visible
from zeropoint.primitives.qparams import QParams, dequantize, quantize


@contextmanager
def simulated(layers: Iterable[QuantizedLayer]) -> Iterator[None]:
    """Let the modules of these layers compute as quantized until the block ends; the others stay as they are."""
    modules = {layer.layer.name: (layer, layer.layer.module) for layer in layers}
    replaced = [(layer, module) for layer, module in modules.values() if module is not None]
    # a hook keeps torch's fused transformer layer away, which would read the float weight past the module's forward
    with hooked(before=((module, stay_visible) for _, module in replaced)):
        try:
            for layer, module in replaced:
                module.__dict__["forward"] = partial(forward_quantized, layer)
            yield
        finally:
            for _, module in replaced:
                module.__dict__.pop("forward", None)


def forward_quantized(layer: QuantizedLayer, values: Tensor, *arguments: object) -> Tensor:
    """Return what the quantized layer gives on a float input [..., in, ...], on its device; no hook of it runs.

    `arguments`: what else the module's forward takes, an output size say.
    """
    module = layer.layer.module
    assert module is not None
    dtype = layer.layer.weight.dtype
    weight = layer.dequantized_weight.to(values.device, dtype)
    bias = layer.layer.bias if layer.bias is None else layer.bias
    operator = copy(module)
    operator.__dict__.pop("forward", None)  # of a simulation: it would call this function again
    operator.__dict__["_parameters"] = {
        **module._parameters,
        "weight": weight,
        "bias": None if bias is None else bias.to(values.device, dtype),
    }
    output: Tensor = operator.forward(quantize_input(values, layer), *arguments)
    layer.release()
    return output if layer.outliers is None else output + layer.outlier_output(values)


def quantize_input(values: Tensor, layer: QuantizedLayer) -> Tensor:
    """Return x̂ of x as the layer's operator is given it, in the dtype of x."""
    return fake_quantize(layer.scale_input(values), None if layer.activation is None else layer.activation.qparams)


def broadcast_channels(channels: Tensor, layer: QuantizedLayer) -> Tensor:
    """Return channels [C] in a shape that broadcasts over the layer's input or output."""
    axis = layer.layer.channel_axis
    assert axis is not None
    return channels.reshape(-1, *[1] * (-axis - 1))


def fake_quantize(values: Tensor, qparams: QParams | None) -> Tensor:
    """Return x̂ of x on a per-tensor grid, in the dtype of x; what `qparams` computes, in one sweep over memory."""
    if qparams is None:
        return values
    grid = qparams.quant_type
    if grid.dtype.is_floating_point:
        return dequantize(quantize(values, qparams), qparams).to(values.dtype)
    scale, zero_point = float(qparams.scale), int(qparams.zero_point)
    rounded = torch.fake_quantize_per_tensor_affine(values.float(), scale, zero_point, grid.quant_min, grid.quant_max)
    return rounded.to(values.dtype)
