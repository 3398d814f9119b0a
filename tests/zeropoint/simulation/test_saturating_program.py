"""A saved program runs as the model of a kernel says: like eager mode where no pair saturates, else with less."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.networks import BATCH, Example, audio, convolutional, counting, dictionary
from tests.zeropoint.conftest import QuantizeExample
from zeropoint.formats import VALIDATED, write_formats
from zeropoint.loading.readers.program import OpenedProgram, open_saved_program
from zeropoint.metrics.sqnr import Noise
from zeropoint.simulation.saturation import MLAS, ONEDNN, Kernel


def volume() -> Example:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv3d(2, 4, 2), nn.Flatten(), nn.Linear(32, 3)).eval()
    samples = torch.randn(8, 2, 3, 3, 3)
    return Example(module, (samples[:2],), ({0: BATCH},), {"input": samples})


NETWORKS = [convolutional, audio, dictionary, counting, volume]


def opened(quantized: QuantizeExample, make: Callable[[], Example], folder: Path, **recipe: object) -> OpenedProgram:
    list(write_formats(quantized(make(), **recipe), folder, VALIDATED["pt2"]))
    return open_saved_program(folder)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("make", NETWORKS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("kernel", [ONEDNN, MLAS], ids=["onednn", "mlas"])
def test_limited_weights_give_what_eager_mode_gives(
    make: Callable[[], Example], kernel: Kernel, quantized: QuantizeExample, tmp_path: Path
) -> None:
    program = opened(quantized, make, tmp_path, target_isa="any")
    batch = {str(place): tensor for place, tensor in enumerate(make().dataset.values())}
    with torch.no_grad():
        there = program.run_saturating(batch, kernel)  # first: a call of the program may change its buffers
        pairs = list(zip(program.run(batch), there, strict=True))
    for eager, modelled in pairs:
        if not isinstance(eager, torch.Tensor) or not isinstance(modelled, torch.Tensor):
            assert type(eager) is type(modelled)
            continue
        assert (eager.shape, eager.dtype) == (modelled.shape, modelled.dtype)
        if eager.is_floating_point():
            noise = Noise()
            noise.add(eager, modelled)
            assert noise.exact or (noise.db or 0.0) > 40
