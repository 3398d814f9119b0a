"""One more run of the float model on a batch, watched: is it deterministic, and which layer does how much work?

Multiply-accumulates are counted at the operators that multiply by a stored weight: outputs × the length of the sum.
Operators without a weight (attention's products of activations) have nothing to quantize and don't count. Tensors that
the graph allocates and never fills hold whatever was in memory: where there are any, the batch is run once with them
full of NaN and once with zeros, so that a result that depends on them differs whatever the memory held.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from zeropoint.metrics.sqnr import Noise
from zeropoint.model.source import Source
from zeropoint.schema.layer_names import layer_name

aten = torch.ops.aten

SAME_DB = 90.0
"""Two runs that are closer differ only as atomic additions on a GPU do."""
_UNFILLED = ("empty", "empty_like", "empty_permuted", "empty_strided", "new_empty", "new_empty_strided")
_PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "_grouped_mm", "linear")
_CONVOLUTIONS = ("convolution", "mkldnn_convolution", "_convolution", "cudnn_convolution")
_FUSED = ("mkldnn_rnn_layer", "_cudnn_rnn", "_transformer_encoder_layer_fwd", "_native_multi_head_attention")
"""Operators that multiply every position of their first argument by each of their weights."""


@dataclass(frozen=True)
class FloatRun:
    """The outputs of the watched run, multiply-accumulates by layer name, and outputs that unfilled memory changes."""

    outputs: Sequence[object]
    macs: Mapping[str, int]
    unfilled: frozenset[int]

    def differs(self, outputs: Sequence[object]) -> list[int]:
        """Return the positions of outputs that another run of the same batch gave otherwise."""
        pairs = enumerate(zip(self.outputs, outputs, strict=True))
        return [
            position for position, (first, second) in pairs if position in self.unfilled or not _same(first, second)
        ]


def watch_float_run(source: Source, batch: Sequence[Tensor]) -> FloatRun:
    """Run one batch from the uploaded state. Raises whatever the model raises."""
    watch = _Watch(_owners(source), math.nan)
    outputs = _run(source, batch, watch)
    unfilled: list[int] = []
    if watch.filled:
        zeros = _run(source, batch, _Watch({}, 0.0))
        unfilled = [i for i, (first, second) in enumerate(zip(outputs, zeros, strict=True)) if not _same(first, second)]
    return FloatRun(outputs, watch.macs, frozenset(unfilled))


def _run(source: Source, batch: Sequence[Tensor], watch: "_Watch") -> list[object]:
    source.reset()
    with torch.no_grad(), watch:
        outputs = source.run(batch)
    source.reset()
    return [value.cpu() if isinstance(value, Tensor) else value for value in outputs]


def _owners(source: Source) -> dict[int, str]:
    """Return the address of each weight's storage -> its layer; a tied weight belongs to the layer that multiplies."""
    owners: dict[int, str] = {}
    named = {parameter: layer.name for layer in reversed(source.layers) for parameter in layer.parameters}
    for name, tensor in source.tensors.items():
        if tensor.dim() > 1 and tensor.device.type != "meta":
            owners.setdefault(tensor.untyped_storage().data_ptr(), named.get(name, layer_name(name)))
    for layer in source.layers:
        if layer.module is not None and layer.kind != "Embedding":  # `layer.weight` may be a copy
            owners[layer.module.get_parameter("weight").untyped_storage().data_ptr()] = layer.name
    if source.device != "cpu":  # the tensors of a source stay where they were; those that run were moved
        for name, parameter in source.module.named_parameters():
            owners.setdefault(parameter.untyped_storage().data_ptr(), layer_name(name))
    owners.pop(0, None)
    return owners


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts products with weights, and fills what the graph leaves unfilled."""

    def __init__(self, owners: Mapping[int, str], fill: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._owners, self._fill = owners, fill
        self.macs: dict[str, int] = {}
        self.filled = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operator. Raises whatever it raises."""
        output = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in _UNFILLED and isinstance(output, Tensor):
            self.filled = True
            output.fill_(self._fill if output.dtype.is_floating_point or output.dtype.is_complex else self._fill != 0)
        elif name in _PRODUCTS or name in _CONVOLUTIONS or name in _FUSED:
            self._count(name, args, output)
        return output

    def _count(self, name: str, args: tuple[Any, ...], output: Any) -> None:
        tensors = [value for value in _flat(args) if isinstance(value, Tensor)]
        weights = [(tensor, owner) for tensor in tensors if (owner := self._owner(tensor)) is not None]
        first = output[0] if isinstance(output, tuple | list) else output
        for weight, owner in weights:
            self.macs[owner] = self.macs.get(owner, 0) + _macs(name, args, tensors, weight, first)

    def _owner(self, tensor: Tensor) -> str | None:
        return self._owners.get(tensor.untyped_storage().data_ptr()) if tensor.dim() > 1 else None


def _macs(name: str, args: tuple[Any, ...], tensors: Sequence[Tensor], weight: Tensor, output: Tensor) -> int:
    """Return the multiply-accumulates of one call with `weight`."""
    if name in _CONVOLUTIONS:
        transposed = name != "mkldnn_convolution" and len(args) > 6 and args[6] is True
        where = tensors[0] if transposed else output
        return weight.numel() * (where.numel() // max(where.shape[1], 1))
    if name in _FUSED:
        return weight.numel() * (tensors[0].numel() // max(tensors[0].shape[-1], 1))
    left = tensors[1] if name in ("addmm", "baddbmm", "addmv") else tensors[0]
    return output.numel() * left.shape[-1]


def _flat(values: Any) -> list[Any]:
    if isinstance(values, tuple | list):
        return [leaf for value in values for leaf in _flat(value)]
    return [values]


def _same(first: object, second: object) -> bool:
    if not isinstance(first, Tensor) or not isinstance(second, Tensor):
        return True
    second = second.cpu()
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    if not first.is_floating_point():
        return bool(torch.equal(first, second))
    if torch.equal(torch.isnan(first), torch.isnan(second)) and torch.equal(
        torch.nan_to_num(first), torch.nan_to_num(second)
    ):
        return True
    noise = Noise()
    noise.add(first, second)
    return noise.db is None or noise.db > SAME_DB
