"""Decide which quantized layers Inductor can run in int8, and give them the form that its patterns recognize.

The patterns of torch 2.13 (torch/_inductor/fx_passes/quantization.py) match operators only. Their int8 kernels multiply
int8 weights whose zero point is 0 and that have one scale per output with uint8 inputs (a linear takes int8 too), and
accumulate in float32 or bfloat16. The patterns check none of that, and compute wrong values where it does not hold. So
each layer has either exactly the kernel's form, or a form that no pattern recognizes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch._prims_common import is_contiguous_or_false

from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.layers.weights import packed
from zeropoint.model.layer_call import LayerCall
from zeropoint.primitives.qparams import QParams, QuantType

Form = Literal["kernel", "pt2e", "plain"]
"""kernel: what an int8 kernel computes. pt2e: the operators that PT2E writes, unchanged. plain: arithmetic that no
pattern recognizes, and that freezing folds into a float weight."""

_RANKS = {"Linear": 0, "Conv1d": 1, "Conv2d": 2}
_HALF = 128


def weight_form(layer: QuantizedLayer, call: LayerCall) -> Form:
    """Return the form in which the layer's weight is dequantized for this call."""
    if not _has_integer_input(layer) or layer.qparams is None or layer.qparams.group_size is not None:
        return "pt2e"
    if call.kind in _RANKS and _is_centred(layer) and _dtype(call) in (torch.float32, torch.bfloat16):
        return "kernel"
    recognized = layer.qparams.axis is not None and layer.weight.dim() <= 4
    return "plain" if recognized else "pt2e"


def buffers(layer: QuantizedLayer, form: Form) -> dict[str, Tensor]:
    """Return the tensors that dequantize a weight [out, ...] by name suffix: integers, scales, zero points, in order.

    Scale and zero point of a whole tensor are literals in the graph; a kernel, however, needs one scale per output, and
    zero points as int64 even if all are 0.
    """
    qparams, tensors = layer.qparams, {"": packed(layer.weight, layer.settings)}
    if form == "kernel" and qparams is not None:
        outputs = layer.weight.shape[0]
        scale = {"_scale": qparams.scale} if qparams.axis == 0 else {"_scale_of_outputs": qparams.scale.repeat(outputs)}
        return {**tensors, **scale, "_zero_point": torch.zeros(outputs, dtype=torch.int64)}
    if qparams is None or qparams.scale.dim() == 0:
        return tensors
    tensors["_scale"] = qparams.scale
    return tensors if qparams.quant_type.dtype.is_floating_point else {**tensors, "_zero_point": qparams.zero_point}


def input_qparams(qparams: QParams, call: LayerCall) -> QParams:
    """Return the qparams of a call's input; for a convolution, int8 is shifted up by 128 to uint8.

    The shifted qparams represent the same numbers. The convolution kernel takes only uint8: with int8 it fails at run
    time.
    """
    quant_type = qparams.quant_type
    if quant_type.dtype != torch.int8 or call.kind not in ("Conv1d", "Conv2d"):
        return qparams
    shifted = QuantType(torch.uint8, quant_type.quant_min + _HALF, quant_type.quant_max + _HALF)
    return QParams(shifted, qparams.scale, qparams.zero_point + _HALF)


def lacks_batch(call: LayerCall) -> bool:
    """Return whether the input has no batch dimension: torch would insert one between Q/DQ and the operator."""
    return bool(call.input.meta["val"].dim() == _RANKS[call.kind] + 1)


def is_noncontiguous(call: LayerCall) -> bool:
    """Return whether a linear's input [a, b, ..., in] is not contiguous: torch would insert a copy after Q/DQ."""
    value = call.input.meta["val"]
    return value.dim() > 2 and not is_contiguous_or_false(value)


@dataclass(frozen=True)
class ConvOptions:
    """A convolution's options, one number per spatial dimension. `extra` pads the far end by that much beforehand."""

    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int
    extra: list[int]

    def as_2d(self) -> "ConvOptions":
        """Return the options for [N, C, 1, T] in place of [N, C, T]."""
        return ConvOptions([1, *self.stride], [0, *self.padding], [1, *self.dilation], self.groups, [0, *self.extra])


def conv_options(call: LayerCall) -> ConvOptions:
    """Return a convolution's options as numbers. `same` with an odd total pads the far end by one more element."""
    rank, options = _RANKS[call.kind], call.options
    stride, dilation = (_per_dimension(options.get(name, 1), rank) for name in ("stride", "dilation"))
    padding, extra = options.get("padding", 0), [0] * rank
    if padding == "same":
        totals = [d * (size - 1) for d, size in zip(dilation, call.weight.meta["val"].shape[2:], strict=True)]
        padding, extra = [total // 2 for total in totals], [total % 2 for total in totals]
    padding = _per_dimension(0 if padding == "valid" else padding, rank)
    return ConvOptions(stride, padding, dilation, options.get("groups", 1), extra)


def _has_integer_input(layer: QuantizedLayer) -> bool:
    return layer.activation is not None and not layer.activation.qparams.quant_type.dtype.is_floating_point


def _is_centred(layer: QuantizedLayer) -> bool:
    """Return whether the weight is symmetric, with one scale or one per output."""
    return layer.settings.scheme == "symmetric" and layer.qparams is not None and layer.qparams.axis in (None, 0)


def _dtype(call: LayerCall) -> torch.dtype:
    dtype: torch.dtype = call.input.meta["val"].dtype
    return dtype


def _per_dimension(value: int | Sequence[int], rank: int) -> list[int]:
    values = [value] if isinstance(value, int) else [*value]
    return values * (rank // len(values))
