"""Which quantized layers Inductor runs in int8, and what such a layer must look like in the graph.

The patterns of torch 2.13 (torch/_inductor/fx_passes/quantization.py) go by operators alone. An int8 kernel multiplies
int8 weights whose zero point is 0, one scale an output, with uint8 inputs (a linear takes int8 too), and adds in
float32 or bfloat16; the patterns look at none of that, and compute something else where it is otherwise. So a layer
has either exactly their form, or one that they don't recognize.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch._prims_common import is_contiguous_or_false

from zeropoint.graph.calls import LayerCall
from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.primitives.qparams import QParams, QuantType

Form = Literal["kernel", "pt2e", "plain"]
"""kernel: what an int8 kernel computes. pt2e: the ecosystem's operators, as they are. plain: arithmetic that no
pattern recognizes, and that freezing turns into a float weight."""

_RANKS = {"Linear": 0, "Conv1d": 1, "Conv2d": 2}
_HALF = 128


def weight_form(layer: QuantizedLayer, call: LayerCall) -> Form:
    """How the layer's weight is made float for this call."""
    if not _has_integer_input(layer) or layer.qparams is None or layer.qparams.group_size is not None:
        return "pt2e"
    if call.kind in _RANKS and _is_centred(layer) and _dtype(call) in (torch.float32, torch.bfloat16):
        return "kernel"
    recognized = layer.qparams.axis is not None and layer.weight.dim() <= 4
    return "plain" if recognized else "pt2e"


def buffers(layer: QuantizedLayer, form: Form) -> dict[str, Tensor]:
    """What a weight is made float from, by what follows its name: numbers, scales, zero points, in this order.

    Of a whole tensor, scale and zero point are literals; but a kernel wants one for each output, and zero points as
    int64 also where all are 0.
    """
    qparams, tensors = layer.qparams, {"": layer.tensors[str(layer.layer.weight_name)]}
    if form == "kernel" and qparams is not None:
        outputs = layer.weight.shape[0]
        scale = {"_scale": qparams.scale} if qparams.axis == 0 else {"_scale_of_outputs": qparams.scale.repeat(outputs)}
        return {**tensors, **scale, "_zero_point": torch.zeros(outputs, dtype=torch.int64)}
    if qparams is None or qparams.scale.dim() == 0:
        return tensors
    tensors["_scale"] = qparams.scale
    return tensors if qparams.quant_type.dtype.is_floating_point else {**tensors, "_zero_point": qparams.zero_point}


def input_grid(qparams: QParams, call: LayerCall) -> QParams:
    """The grid of a call's input: a convolution's int8 becomes uint8, 128 higher, and means the same numbers.

    Its kernel takes nothing else; with int8 it stops at run time.
    """
    grid = qparams.quant_type
    if grid.dtype != torch.int8 or call.kind not in ("Conv1d", "Conv2d"):
        return qparams
    higher = QuantType(torch.uint8, grid.quant_min + _HALF, grid.quant_max + _HALF)
    return QParams(higher, qparams.scale, qparams.zero_point + _HALF)


def lacks_batch(call: LayerCall) -> bool:
    """Whether the call sees one sample without a batch dimension: torch adds one behind Q/DQ, which parts the two."""
    return bool(call.input.meta["val"].dim() == _RANKS[call.kind] + 1)


def lies_crosswise(call: LayerCall) -> bool:
    """Whether a linear's input [a, b, ..., in] is not contiguous: torch would copy it or the weight, behind Q/DQ."""
    value = call.input.meta["val"]
    return value.dim() > 2 and not is_contiguous_or_false(value)


@dataclass(frozen=True)
class Window:
    """How a convolution moves, a number for each spatial dimension; its far end may be padded by `more` beforehand."""

    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int
    more: list[int]

    def flat(self) -> "Window":
        """The same over [N, C, 1, T] in place of [N, C, T]."""
        return Window([1, *self.stride], [0, *self.padding], [1, *self.dilation], self.groups, [0, *self.more])


def window(call: LayerCall) -> Window:
    """A convolution's options in numbers. With `same`, an odd sum pads the far end by one more, which takes a copy."""
    rank, options = _RANKS[call.kind], call.options
    stride, dilation = (_spread(options.get(name, 1), rank) for name in ("stride", "dilation"))
    padding, more = options.get("padding", 0), [0] * rank
    if padding == "same":
        totals = [d * (size - 1) for d, size in zip(dilation, call.weight.meta["val"].shape[2:], strict=True)]
        padding, more = [total // 2 for total in totals], [total % 2 for total in totals]
    return Window(stride, _spread(0 if padding == "valid" else padding, rank), dilation, options.get("groups", 1), more)


def _has_integer_input(layer: QuantizedLayer) -> bool:
    return layer.activation is not None and not layer.activation.qparams.quant_type.dtype.is_floating_point


def _is_centred(layer: QuantizedLayer) -> bool:
    """Whether the weight's zero points are the middle of its grid, and its scales, if there are several, of outputs."""
    return layer.settings.scheme == "symmetric" and layer.qparams is not None and layer.qparams.axis in (None, 0)


def _dtype(call: LayerCall) -> torch.dtype:
    dtype: torch.dtype = call.input.meta["val"].dtype
    return dtype


def _spread(value: int | Sequence[int], rank: int) -> list[int]:
    values = [value] if isinstance(value, int) else [*value]
    return values * (rank // len(values))
