"""AWQ: columns that meet large inputs keep more of their weight."""

import torch
from torch import Tensor, nn

from tests.zeropoint.algorithms.conftest import Prepare
from zeropoint.algorithms.awq import factors, scale_by_activations
from zeropoint.schema.algorithms import Awq

INT4 = {"weights": {"dtype": "int4", "group_size": 16}, "activations": None}


def uneven() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    wide = torch.ones(32)
    wide[::8] = 20.0
    return nn.Sequential(nn.Linear(32, 24), nn.Tanh(), nn.Linear(24, 8)), torch.randn(96, 32) * wide / 10


def test_columns_that_meet_large_inputs_lose_less(prepare: Prepare) -> None:
    place = prepare(*uneven(), **INT4)
    changed = scale_by_activations(Awq(), place.context, place.layers)
    wrong = {name: (one.effective_weight - one.layer.weight)[:, ::8].square().sum() for name, one in changed.items()}
    plain = place.layers["0"]
    assert wrong["0"] < (plain.effective_weight - plain.layer.weight)[:, ::8].square().sum() / 2
    assert place.db({**place.layers, **changed}) > place.db(place.layers) + 1


def test_the_factors_are_those_of_the_formula() -> None:
    found = factors(torch.tensor([4.0, 1.0]), 0.5)
    torch.testing.assert_close(found, torch.tensor([2.0, 1.0]) / 2.0**0.5)
    assert factors(torch.tensor([4.0, 1.0]), 0.0).tolist() == [1.0, 1.0]
    assert bool(torch.isfinite(factors(torch.tensor([1.0, 0.0]), 1.0)).all())


def test_layers_with_a_static_input_are_left_alone(prepare: Prepare) -> None:
    place = prepare(*uneven())
    assert scale_by_activations(Awq(), place.context, place.layers) == {}
