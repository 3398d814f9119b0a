"""Simulation: within a `with` block, the float module computes what its quantized layers will, in float arithmetic.

    y = layer(x̂, ŵ) + bias [+ outliers],  x̂ = x · pre_quant_scale, quantized and dequantized with the input's qparams

A weight is dequantized when its layer runs and freed afterwards, so memory holds at most one such weight at a time.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor

from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.model.hooks import hooked, stay_visible
from zeropoint.model.weight_holder import WeightHolder
from zeropoint.primitives.qparams import QParams, dequantize, quantize


@contextmanager
def simulated(layers: Iterable[QuantizedLayer]) -> Iterator[None]:
    """Let the modules of these layers compute as quantized until the block ends; the others stay as they are."""
    modules = {layer.layer.name: (layer, layer.layer.module) for layer in layers}
    replaced = [(layer, module) for layer, module in modules.values() if module is not None]
    # a hook disables torch's fused transformer layer, which would read the float weight without calling forward
    with hooked(before=((module, stay_visible) for _, module in replaced)):
        try:
            for layer, module in replaced:
                module.__dict__["forward"] = partial(forward_quantized, layer)
            yield
        finally:
            for _, module in replaced:
                module.__dict__.pop("forward", None)


@contextmanager
def rounded_outputs(layers: Iterable[QuantizedLayer]) -> Iterator[None]:
    """Let the fused outputs of these layers be quantized until the block ends, and nothing else."""
    places = [(layer.layer.fused_output, layer.output) for layer in layers]
    after = [
        (place, partial(_round_output, output.qparams))
        for place, output in places
        if place is not None and output is not None
    ]
    with hooked(after=after):
        yield


def _round_output(qparams: QParams, *called: Any) -> Tensor:
    """Return the output, the last of what a forward hook is called with, on its grid."""
    return fake_quantize(called[-1], qparams)


def forward_quantized(layer: QuantizedLayer, *arguments: Any) -> Tensor:
    """Return the quantized layer's output for a float input [..., in, ...], on its device, without running hooks.

    `arguments`: those of the module's forward, the input first; none for a layer whose operator reads its weight.
    """
    module = layer.layer.module
    assert module is not None
    if isinstance(module, WeightHolder):
        return module.as_read(layer.dequantized_weight)
    values: Tensor = arguments[0]
    dtype = layer.layer.weight.dtype
    weight = layer.dequantized_weight.to(values.device, dtype)
    bias = layer.layer.bias if layer.bias is None else layer.bias
    operator = copy(module)
    operator.__dict__.pop("forward", None)  # set by a simulation, and would call this function again
    operator.__dict__["_parameters"] = {
        **module._parameters,
        "weight": weight.t() if layer.layer.reads_transposed else weight,
        "bias": None if bias is None else bias.to(values.device, dtype),
    }
    output: Tensor = operator.forward(quantize_input(values, layer), *arguments[1:])
    layer.release()
    return output if layer.outliers is None else output + layer.outlier_output(values)


def quantize_input(values: Tensor, layer: QuantizedLayer) -> Tensor:
    """Return x̂, the input of the layer's operator for the float input x, in the dtype of x."""
    return fake_quantize(layer.scale_input(values), None if layer.activation is None else layer.activation.qparams)


def broadcast_channels(channels: Tensor, layer: QuantizedLayer) -> Tensor:
    """Return channels [C] in a shape that broadcasts over the layer's input or output."""
    axis = layer.layer.channel_axis
    assert axis is not None
    return channels.reshape(-1, *[1] * (-axis - 1))


def fake_quantize(values: Tensor, qparams: QParams | None) -> Tensor:
    """Return x quantized and dequantized with per-tensor qparams, in the dtype of x.

    For integers this equals `dequantize(quantize(x))`, in one pass over memory.
    """
    if qparams is None:
        return values
    quant_type = qparams.quant_type
    if quant_type.dtype.is_floating_point:
        return dequantize(quantize(values, qparams), qparams).to(values.dtype)
    scale, zero_point = float(qparams.scale), int(qparams.zero_point)
    low, high = quant_type.quant_min, quant_type.quant_max
    return torch.fake_quantize_per_tensor_affine(values.float(), scale, zero_point, low, high).to(values.dtype)
