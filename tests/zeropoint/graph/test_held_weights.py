"""Weights that an operator reads as they are: each is a layer of its own, whatever operator it is."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from app.intake.limits import Limits
from app.intake.program.read import read_program
from tests.held_networks import EXPERT_PRODUCTS, IN, RECURRENT, Bag, Held, Tables, bags, vectors
from tests.spelled_networks import Inner
from zeropoint import quantize
from zeropoint.model.source import ProgramSource
from zeropoint.sources.program import program_source

EVERY = {**RECURRENT, **EXPERT_PRODUCTS}
SPELLINGS = ["exported", "decomposed"]

pytestmark = [
    pytest.mark.sampled(29),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:The tensor attribute:UserWarning"),
    pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning"),
]


def opened(held: Held, spelling: str) -> ProgramSource:
    return program_source(held.program(decompose=spelling == "decomposed"))


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("name", EVERY)
def test_each_weight_is_a_layer_and_the_source_computes_the_same_bits(name: str, spelling: str) -> None:
    held = EVERY[name]
    program = held.program(decompose=spelling == "decomposed")
    source, inputs = program_source(program), held.inputs(5, 1)
    with torch.no_grad():
        assert torch.equal(program.module()(*inputs), source.run(list(inputs))[0])  # type: ignore[arg-type]
    layers = {layer.name: layer for layer in source.layers}
    assert held.layers <= {name for name, layer in layers.items() if layer.is_held}
    assert {layer.reason for layer in layers.values()} == {None}
    for layer in (layers[name] for name in held.layers):
        assert layer.weight.dim() == 2
        assert layer.weight.numel() == source.tensors[str(layer.weight_name)].numel()


@pytest.mark.parametrize("name", RECURRENT)
def test_decomposed_layers_are_those_of_the_operator(name: str) -> None:
    told = [
        [
            (layer.name, layer.type, layer.kind, layer.weight_name, layer.bytes)
            for layer in opened(held, spelling).layers
        ]
        for held in (RECURRENT[name],)
        for spelling in SPELLINGS
    ]
    assert told[0] == told[1]
    assert {kind for _, kind, *_ in told[0] if kind != "Linear"} == {name.split()[0]}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("name", ["LSTM 2 layers both ways", "GRUCell", *EXPERT_PRODUCTS])
def test_the_answer_to_an_upload_names_the_same_layers(tmp_path: Path, name: str, spelling: str) -> None:
    held = EVERY[name]
    if name in EXPERT_PRODUCTS and name != "bilinear":
        held = replace(held, module=lambda: Inner(EVERY[name].module()))
    program = held.program(decompose=spelling == "decomposed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, tmp_path / "model.pt2")
    told = {(layer.name, layer.type) for layer in read_program(tmp_path / "model.pt2", Limits()).facts.layers}
    assert told == {(layer.name, layer.type) for layer in program_source(program).layers}


class Twice(nn.Module):
    """One recurrent network in two places, and a weight of it that is normalized."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.GRU(IN, IN, batch_first=True)
        self.normed = nn.utils.parametrizations.weight_norm(nn.LSTM(IN, IN, batch_first=True), "weight_hh_l0")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        once = self.net(x[:, None])[0]
        twice: torch.Tensor = self.normed(self.normed(self.net(once)[0])[0])[0]
        return twice


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_network_in_two_places_and_a_computed_weight_are_quantized(spelling: str) -> None:
    torch.manual_seed(0)
    held = Held(Twice, vectors, frozenset({"net.ih_l0", "net.hh_l0", "normed.ih_l0", "normed.hh_l0"}))
    result = quantize(held.program(decompose=spelling == "decomposed"), held.samples())
    assert {layer.name for layer in result.report.layers} == held.layers
    assert not result.report.skipped
    assert (result.report.summary.sqnr_db or 0) > 38


def test_a_table_that_is_no_weight_stays_in_float_under_its_own_name() -> None:
    held = Held(Tables, vectors, frozenset())
    result = quantize(held.program(), held.samples(), on_failure="ignore")
    assert [layer.name for layer in result.report.layers] == ["first"]
    reasons = {skip.name: skip.reason for skip in result.report.skipped}
    assert reasons == dict.fromkeys(("added", "compared", "mixed", "normed"), "unsupported")


def test_a_bag_of_rows_is_quantized_when_its_type_is_chosen() -> None:
    torch.manual_seed(2)  # of sixteen rows, a few may lie far outside the ranges of the others
    held = Held(Bag, bags, frozenset({"table"}))
    result = quantize(held.program(), held.samples())
    assert {skip.name: skip.reason for skip in result.report.skipped} == {"table": "type_not_selected"}
    chosen: Any = {"layer_types": ["Linear", "EmbeddingBag"]}
    result = quantize(held.program(), held.samples(), recipe=chosen)
    assert {layer.name for layer in result.report.layers} == {"table", "head"}
    assert (result.report.summary.sqnr_db or 0) > 30
