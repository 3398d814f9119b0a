"""More samples never hurt: one that is unlike the others widens no range of the presets that decide by samples."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from zeropoint.data.batches import ModelInputs
from zeropoint.data.calls import CallDataset, read_calls
from zeropoint.engine.plan import plan
from zeropoint.engine.quantize import quantize_source
from zeropoint.schema.presets import PRESETS
from zeropoint.schema.recipe import CalibrationSettings
from zeropoint.simulation.measure import Evaluator
from zeropoint.sources.module import module_source

MADE: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linears": (lambda: nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8)), (16,)),
    "gelu": (lambda: nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 32), nn.Linear(32, 8)), (16,)),
    "conv2d": (
        lambda: nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 5)),
        (2, 8, 8),
    ),
    "conv1d": (
        lambda: nn.Sequential(nn.Conv1d(2, 8, 3), nn.LeakyReLU(), nn.Conv1d(8, 8, 3), nn.Flatten(), nn.Linear(96, 5)),
        (2, 16),
    ),
}


def calls(rows: Tensor) -> CallDataset:
    return read_calls([ModelInputs([part]) for part in torch.split(rows, 32)], lambda call: call, 4096)  # type: ignore[arg-type,return-value]


def sqnr(network: nn.Module, rows: Tensor, fresh: Tensor) -> float:
    recipe = PRESETS["int8"].recipe.model_copy(update={"calibration": CalibrationSettings(samples=len(rows))})
    source, evaluation = module_source(network), calls(fresh)
    result = quantize_source(source, recipe, plan(source, recipe, calls(rows), evaluation), lambda *_: None)
    return Evaluator(source, evaluation).noise(result.layers).db or 999.0


@pytest.mark.sampled(5)
@pytest.mark.parametrize("times", [2, 5, 20, 100])
@pytest.mark.parametrize("name", MADE)
def test_a_thousand_samples_with_one_outlier_do_as_well_as_a_hundred(name: str, times: int) -> None:
    torch.manual_seed(1)
    make, shape = MADE[name]
    network = make().eval()
    few, many, fresh = (torch.randn(count, *shape) for count in (128, 1024, 256))
    many[300] *= times
    assert sqnr(network, many, fresh) >= sqnr(network, few, fresh) - 1.5


def test_each_kind_of_layer_is_decided_by_itself() -> None:
    """The convolutions' inputs hold an outlier, the linear's never do: tanh is in front of it."""
    torch.manual_seed(1)
    network = nn.Sequential(nn.Conv2d(2, 8, 3), nn.Flatten(), nn.Tanh(), nn.Linear(288, 8)).eval()
    rows = torch.randn(512, 2, 8, 8)
    rows[100] *= 50
    recipe = PRESETS["int8"].recipe.model_copy(update={"calibration": CalibrationSettings(samples=512)})
    source = module_source(network)
    result = quantize_source(source, recipe, plan(source, recipe, calls(rows)), lambda *_: None)
    clipping = [step for step in result.decisions.algorithms if step.algorithm == "mse_clipping"]
    assert [step.settings["ignore_outliers"] for step in clipping] == [False, True, False, True]
    assert clipping[1].kept
    assert not clipping[3].kept
