"""Run a saved program as a runtime does whose integer kernels saturate: a model of its sums (`saturation`)."""

from typing import Any

import torch
from torch import Tensor, fx

from zeropoint.simulation.saturation import (
    Geometry,
    Kernel,
    Saturation,
    saturated_convolution,
    saturated_linear,
)

aten, quantized = torch.ops.aten, torch.ops.quantized_decomposed
CONVOLUTIONS: dict[Any, int] = {aten.conv1d.default: 1, aten.conv2d.default: 2, aten.conv3d.default: 3}
INTEGERS = (torch.uint8, torch.int8)


class SaturatingProgram(fx.Interpreter):
    """Computes linears and convolutions of 8-bit integers as a kernel does, and all else as it is.

    `found` has what saturated, by the name of the node.
    """

    def __init__(self, module: fx.GraphModule, kernel: Kernel) -> None:
        super().__init__(module)
        self.kernel = kernel
        self.found: dict[str, Saturation] = {}
        self._inputs: dict[str, tuple[Any, ...]] = {}
        self._weights: dict[str, tuple[Any, ...]] = {}

    def run_node(self, node: fx.Node) -> Any:
        """Remember what is dequantized, and multiply integers where both operands are such."""
        arguments, _ = self.fetch_args_kwargs_from_env(node)
        if node.target is quantized.dequantize_per_tensor.default and arguments[0].dtype in INTEGERS:
            self._inputs[node.name] = arguments
        elif node.target is quantized.dequantize_per_channel.default and _is_centred(arguments):
            self._weights[node.name] = arguments
        elif node.target is aten.linear.default or node.target in CONVOLUTIONS:
            values, weight = (getattr(one, "name", None) for one in node.args[:2])
            if values in self._inputs and weight in self._weights:
                return self._multiplied(node, self._inputs[values], self._weights[weight], arguments)
        return super().run_node(node)

    def _multiplied(
        self, node: fx.Node, values: tuple[Any, ...], weight: tuple[Any, ...], arguments: tuple[Any, ...]
    ) -> Any:
        """Return the operator's result [...] in its own dtype; what has no batch dimension is left as it is."""
        rank, zero_point = CONVOLUTIONS.get(node.target, 0), int(values[2])
        if rank and values[0].dim() != rank + 2:
            return super().run_node(node)
        found = self.found.setdefault(node.name, Saturation())
        if rank:
            rest = [*arguments[3:], *[[1], [0], [1], 1][max(len(arguments) - 3, 0) :]]
            stride, padding, dilation = ([*one] * (rank // len(one)) for one in rest[:3])
            geometry = Geometry(stride, padding, dilation, rest[3])
            sums = saturated_convolution(values[0], weight[0], zero_point, geometry, self.kernel, found=found)
        else:
            sums = saturated_linear(values[0], weight[0], zero_point, self.kernel, found)
        shape = [-1] + [1] * rank
        result: Tensor = sums * (float(values[1]) * weight[1].to(torch.float32)).reshape(shape)
        bias: Tensor | None = arguments[2] if len(arguments) > 2 else None
        return (result if bias is None else result + bias.reshape(shape)).to(arguments[0].dtype)


def _is_centred(arguments: tuple[Any, ...]) -> bool:
    """Return whether a dequantized weight is int8 [out, ...], with a scale for each output and no zero points."""
    values, _, zero_points, axis = arguments[:4]
    return values.dtype == torch.int8 and axis == 0 and (zero_points is None or not bool(zero_points.any()))
