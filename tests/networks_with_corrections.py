"""Layers as error compensation leaves them: factors before their grid, inputs in float, biases of their own."""

from collections import OrderedDict
from copy import copy
from dataclasses import replace

import torch
from torch import Tensor
from torch.func import functional_call

from zeropoint.layers.quantized_layer import Outliers, QuantizedLayer
from zeropoint.layers.result import Quantized
from zeropoint.layers.weights import quantize_weight
from zeropoint.primitives.qparams import dequantize, quantize

EVERYTHING = ("bias", "scale", "outliers")


def corrected(result: Quantized, *parts: str) -> Quantized:
    """The result with these parts (all if none is named) on its layers; their numbers are laid again."""
    # a weight that an operator of its own reads has no input, and so no corrections
    layers = [layer if layer.layer.is_held else correct(layer, parts or EVERYTHING) for layer in result.layers]
    return replace(result, layers=layers)


def correct(layer: QuantizedLayer, parts: tuple[str, ...]) -> QuantizedLayer:
    """Layers with as many inputs get the same factors, so that those which read the same values can share them."""
    weight, own = layer.layer.weight, layer.layer.bias
    inputs = _inputs(layer)
    random = torch.Generator().manual_seed(inputs)
    factors = 0.6 + 0.4 * torch.rand(inputs, generator=random)
    outputs = weight.shape[layer.layer.output_axis] * (inputs // weight.shape[1] if weight.dim() > 2 else 1)
    if "bias" in parts:
        before = torch.zeros(outputs, dtype=weight.dtype) if own is None else own.detach()
        layer = replace(layer, bias=before + torch.linspace(-1, 1, len(before)).to(weight.dtype))
    if "scale" in parts:
        layer = replace(layer, pre_quant_scale=factors)
    if "outliers" in parts and layer.layer.kind == "Linear":
        channels = torch.tensor([1, inputs - 1])
        layer = replace(layer, outliers=Outliers(channels, weight[:, channels].contiguous()))
    if layer.qparams is not None:
        numbers, qparams = quantize_weight(layer.target_weight, layer.settings, layer.layer.output_axis)
        layer = replace(layer, weight=numbers, qparams=qparams)
    return layer


def by_hand(layer: QuantizedLayer, values: Tensor) -> Tensor:
    """What the layer gives on x [..., in, ...], from the formula."""
    module = layer.layer.module
    assert module is not None
    weight, bias, laid = layer.dequantized_weight.to(values.dtype), layer.bias, values
    if layer.pre_quant_scale is not None:
        spatial = [1] * (weight.dim() - 2)
        laid = (values * layer.pre_quant_scale.view(-1, *spatial)).to(values.dtype)
    if layer.activation is not None:
        laid = dequantize(quantize(laid, layer.activation.qparams), layer.activation.qparams).to(values.dtype)
    twin, own = copy(module), getattr(module, "bias", None)
    twin._forward_hooks = OrderedDict()
    tensors = {"weight": weight} | ({} if bias is None or own is None else {"bias": bias})
    output: Tensor = functional_call(twin, tensors, (laid,))
    if bias is not None and own is None:
        output = output + bias.view(-1, *[1] * (weight.dim() - 2))
    if layer.outliers is not None:
        output = output + values[..., layer.outliers.channels] @ layer.outliers.weight.T
    return output


def _inputs(layer: QuantizedLayer) -> int:
    module, weight = layer.layer.module, layer.layer.weight
    if layer.layer.output_axis == 1:
        return weight.shape[0]
    return weight.shape[1] * int(getattr(module, "groups", 1))
