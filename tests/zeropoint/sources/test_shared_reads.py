"""A weight that code outside of its layer reads stays as it is, however and whenever it is read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from tests.networks import Example, attention, audio, convolutional, counting, postnorm, prenorm, projections, residual
from zeropoint import load, quantize
from zeropoint.sources.module import module_source
from zeropoint.sources.shared_reads import without_shared_weights

WIDTH = 8
Read = Callable[[Any, Tensor], Tensor]

READS: dict[str, Read] = {
    "linear": lambda m, x: linear(x, m.fc.weight),
    "transposed": lambda m, x: x @ m.fc.weight.T,
    "of its data": lambda m, x: x @ m.fc.weight.data,
    "a row": lambda m, x: x + m.fc.weight[1],
    "a norm": lambda m, x: x / m.fc.weight.norm(),
    "cast": lambda m, x: x * m.fc.weight.double().mean().float(),
    "by name": lambda m, x: linear(x, dict(m.named_parameters())["fc.weight"]),
}
HARMLESS: dict[str, Read] = {
    "dtype": lambda m, x: x.to(m.fc.weight.dtype),
    "device and shape": lambda m, x: x.to(m.fc.weight.device) * m.fc.weight.shape[0],
    "bias": lambda m, x: x + m.fc.bias,
    "again": lambda m, x: m.fc(x),
}


class Parent(nn.Module):
    def __init__(self, read: Read, *, first: bool = False) -> None:
        super().__init__()
        self.fc, self.out, self.read, self.first = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), read, first

    def forward(self, x: Tensor) -> Tensor:
        parts: list[Callable[[Tensor], Tensor]] = [self.fc, lambda x: self.read(self, x)]
        for part in reversed(parts) if self.first else parts:
            x = part(x)
        out: Tensor = self.out(x)
        return out


def reasons(network: nn.Module, x: Tensor) -> dict[str, str | None]:
    source = without_shared_weights(module_source(network), [x])
    return {layer.name: layer.reason for layer in source.layers}


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("name", READS)
def test_a_weight_that_is_read_elsewhere_is_in_conflict(name: str, first: bool) -> None:
    found = reasons(Parent(READS[name], first=first), torch.randn(3, WIDTH))
    assert found == {"fc": "shared_weight_conflict", "out": None}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_needs_no_values_is_none(name: str) -> None:
    assert reasons(Parent(HARMLESS[name]), torch.randn(3, WIDTH)) == {"fc": None, "out": None}


def test_a_weight_of_a_recurrent_module_counts_too() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(WIDTH, WIDTH, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            hidden: Tensor = self.lstm(x)[0] @ self.lstm.get_parameter("weight_hh_l0")[:WIDTH]
            return hidden

    found = reasons(Recurrent(), torch.randn(3, 4, WIDTH))
    assert set(found.values()) == {None, "shared_weight_conflict"}
    assert found["lstm.hh_l0"] == "shared_weight_conflict"


@pytest.mark.parametrize("make", [attention, audio, convolutional, counting, postnorm, prenorm, projections, residual])
def test_networks_of_layers_stay_as_they_are(make: Callable[[], Example]) -> None:
    example = make()
    source = module_source(example.module)
    batch = [tensor[:2] for tensor in example.dataset.values()]
    assert without_shared_weights(source, batch) is source


def test_a_module_that_fails_is_returned_as_it_is() -> None:
    source = module_source(Parent(lambda *_: torch.ones(1)[7]))
    assert without_shared_weights(source, [torch.randn(3, WIDTH)]) is source


@pytest.mark.filterwarnings("ignore::zeropoint.errors.QuantizationWarning")
def test_the_module_computes_with_the_float_weight(tmp_path: Path) -> None:
    network = Parent(READS["linear"])
    x = torch.randn(64, WIDTH)
    result = quantize(network, [x], export=False, recipe="int8-weight-only")
    assert {layer.name for layer in result.report.layers} == {"out"}
    result.save(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(load(tmp_path, model=network)(x), network(x), atol=0.05, rtol=0)
