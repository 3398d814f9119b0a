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
from torch import fx

from zeropoint.simulation.saturating_program import SaturatingProgram
from zeropoint.simulation.saturation import MLAS, ONEDNN

KERNELS = {"mlas": MLAS, "onednn": ONEDNN}


def call(how: str, file: Path) -> tuple[Any, Sequence[Any]]:
    """Return what runs the program, and the names of its inputs in order."""
    program = torch.export.load(file)
    module, names = program.module(), program.graph_signature.user_inputs
    if how in KERNELS:
        assert isinstance(module, fx.GraphModule)
        return SaturatingProgram(module, KERNELS[how]).run, names
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
    if isinstance(getattr(run, "__self__", None), SaturatingProgram):
        for name, found in run.__self__.found.items():
            if len(found.saturated) and int(found.saturated.sum()):
                share = int(found.saturated.sum()) / (found.pairs * len(found.saturated))
                touched = int((found.saturated > 0).sum())
                print(f"{name}: {share:.1e} of pairs, {touched} of {len(found.saturated)} outputs", file=sys.stderr)


if __name__ == "__main__":
    main(*sys.argv[1:])
