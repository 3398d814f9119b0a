"""Run a `.pt2` program on samples in a process of its own, since oneDNN reads its level once.

python -m benchmarks.comparison.program_run HOW MODEL.pt2 SAMPLES.safetensors OUTPUTS.safetensors BATCH

HOW: eager, as Inductor freezes and compiles it (compiled), or as a saturating kernel computes it (mlas, onednn).
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch._inductor.config
import torch.ao.quantization.fx._decomposed
from safetensors.torch import load_file, save_file
from torch import Tensor, fx

from zeropoint.simulation.saturation import (
    MLAS,
    ONEDNN,
    Geometry,
    Kernel,
    Saturation,
    saturated_convolution,
    saturated_linear,
)

aten, quantized = torch.ops.aten, torch.ops.quantized_decomposed
KERNELS = {"mlas": MLAS, "onednn": ONEDNN}
CONVOLUTIONS: dict[Any, int] = {aten.conv1d.default: 1, aten.conv2d.default: 2}


class Saturating(fx.Interpreter):
    """Computes linears and convolutions of integers as a saturating kernel does, and all else as it is."""

    def __init__(self, module: fx.GraphModule, kernel: Kernel) -> None:
        super().__init__(module)
        self.kernel = kernel
        self.integers: dict[str, tuple[Any, ...]] = {}
        self.found: dict[str, Saturation] = {}

    def run_node(self, node: fx.Node) -> Any:
        """Remember what is dequantized, and multiply integers where both operands are such."""
        arguments, _ = self.fetch_args_kwargs_from_env(node)
        if node.target in (quantized.dequantize_per_tensor.default, quantized.dequantize_per_channel.default):
            self.integers[node.name] = arguments
        read = [self.integers.get(one.name) for one in node.args[:2] if isinstance(one, fx.Node)]
        if node.target is not aten.linear.default and node.target not in CONVOLUTIONS:
            return super().run_node(node)
        if len(read) < 2 or read[0] is None or read[1] is None or read[1][0].dtype != torch.int8:
            return super().run_node(node)
        return self._multiplied(node, read[0], read[1], arguments)

    def _multiplied(
        self, node: fx.Node, values: tuple[Any, ...], weight: tuple[Any, ...], arguments: tuple[Any, ...]
    ) -> Tensor:
        zero_point, found = int(values[2]), self.found.setdefault(node.name, Saturation())
        rank = CONVOLUTIONS.get(node.target, 0)
        if rank:
            rest = [*arguments[3:], *[[1], [0], [1], 1][max(len(arguments) - 3, 0) :]]
            stride, padding, dilation = ([*one] * (rank // len(one)) for one in rest[:3])
            geometry = Geometry(stride, padding, dilation, rest[3])
            sums = saturated_convolution(values[0], weight[0], zero_point, geometry, self.kernel, found=found)
        else:
            sums = saturated_linear(values[0], weight[0], zero_point, self.kernel, found)
        shape = [-1] + [1] * rank
        result: Tensor = sums * (float(values[1]) * weight[1]).reshape(shape)
        bias: Tensor | None = arguments[2] if len(arguments) > 2 else None
        return result if bias is None else result + bias.reshape(shape)


def call(how: str, file: Path) -> tuple[Any, Sequence[Any]]:
    """Return what runs the program, and the names of its inputs in order."""
    program = torch.export.load(file)
    module, names = program.module(), program.graph_signature.user_inputs
    if how in KERNELS:
        assert isinstance(module, fx.GraphModule)
        return Saturating(module, KERNELS[how]).run, names
    return (torch.compile(module, dynamic=False) if how == "compiled" else module), names


def main(how: str, file: str, samples: str, result: str, size: str) -> None:
    """Write the floating outputs of all samples by position."""
    torch.set_num_threads(1)
    given, (run, names) = load_file(samples), call(how, Path(file))
    rounds = []
    with torch.no_grad(), torch._inductor.config.patch(freezing=True):
        for batch in zip(*(torch.split(given[name], int(size)) for name in names), strict=True):
            made = torch.utils._pytree.tree_leaves(run(*batch))
            rounds.append([one for one in made if one.is_floating_point()])
    outputs = (torch.cat(parts) for parts in zip(*rounds, strict=True))
    save_file({str(place): output.contiguous() for place, output in enumerate(outputs)}, result)
    if isinstance(getattr(run, "__self__", None), Saturating):
        for name, found in run.__self__.found.items():
            if len(found.saturated) and int(found.saturated.sum()):
                share = int(found.saturated.sum()) / (found.pairs * len(found.saturated))
                touched = int((found.saturated > 0).sum())
                print(f"{name}: {share:.1e} of pairs, {touched} of {len(found.saturated)} outputs", file=sys.stderr)


if __name__ == "__main__":
    main(*sys.argv[1:])
