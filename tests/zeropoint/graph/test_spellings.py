"""However a product is written, its weight is a layer of its own that computes the same and is quantized."""

import warnings
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from app.intake.limits import Limits
from app.intake.program.read import read_program
from tests.effort import FUZZ_EFFORT, commit_seed
from tests.spelled_networks import (
    IN,
    MODULES,
    OUT,
    PRODUCTS,
    Inner,
    Linear,
    Spelling,
    Written,
    exported,
    inputs,
    weight,
)
from zeropoint import load, quantize
from zeropoint.errors import InvalidRecipe
from zeropoint.graph.preparing import prepared
from zeropoint.schema.layer_patterns import layer_aliases
from zeropoint.sources.program import program_source

PLACES: dict[str, Any] = {
    "outermost": lambda spelling: Written(spelling.forward, spelling.tensors()),
    "inside": lambda spelling: Inner(Written(spelling.forward, spelling.tensors())),
    "in a class named Linear": lambda spelling: Inner(Linear(spelling.forward, spelling.tensors())),
    "under a name of ours": lambda spelling: Inner(Written(spelling.forward, spelling.tensors()), "zeropoint_leaves"),
}
NAMES = {"outermost": "", "under a name of ours": "zeropoint_leaves."}

pytestmark = [
    pytest.mark.sampled(19),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:The tensor attribute:UserWarning"),
    pytest.mark.filterwarnings("ignore:Initializing zero-element tensors:UserWarning"),
]

LEAST_DB = 20
"""Below what int8 costs these networks, and far above a wrong scale, axis or orientation."""
EVERY = [*PRODUCTS, *MODULES]


def expected_layers(spelling: Spelling, place: str) -> set[str]:
    prefix = NAMES.get(place, "mix.")
    return {prefix + name for name in spelling.layers}


def in_one_place_each() -> Iterator[tuple[str, str, bool]]:
    """Each spelling, as exported and decomposed, in one place, and in another with the next commit; or in all."""
    for number, (name, decompose) in enumerate(product(PRODUCTS, (False, True)), start=commit_seed()):
        for place in PLACES if FUZZ_EFFORT >= 1 else [[*PLACES][number % len(PLACES)]]:
            yield name, place, decompose


@pytest.mark.parametrize(("name", "place", "decompose"), list(in_one_place_each()))
def test_the_source_computes_the_same_bits_and_lists_the_weight(
    tmp_path: Path, name: str, place: str, decompose: bool
) -> None:
    spelling = PRODUCTS[name]
    program = exported(PLACES[place](spelling), decompose=decompose)
    source = program_source(program)
    with torch.no_grad():
        expected, (found,) = program.module()(inputs(3)), source.run([inputs(3)])
    assert torch.equal(expected, found)  # type: ignore[arg-type]
    quantizable = {layer.name: layer for layer in source.layers if layer.module is not None}
    assert expected_layers(spelling, place) <= quantizable.keys()
    assert {quantizable[n].transposed for n in expected_layers(spelling, place)} == {spelling.transposed}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, tmp_path / "model.pt2")
    told = {
        layer.name: layer_aliases(layer.tensors)
        for layer in read_program(tmp_path / "model.pt2", Limits()).facts.layers
    }
    for layer in quantizable.values():
        assert layer.name in told or any(set(layer.parameters) & aliases for aliases in told.values())


@pytest.mark.parametrize("decompose", [False, True], ids=["exported", "decomposed"])
@pytest.mark.parametrize("name", MODULES)
def test_a_computed_weight_is_that_of_its_module(name: str, decompose: bool) -> None:
    program = exported(Inner(MODULES[name]()), decompose=decompose)
    source = program_source(program)
    with torch.no_grad():
        expected, (found,) = program.module()(inputs(3)), source.run([inputs(3)])
    assert torch.equal(expected, found)  # type: ignore[arg-type]
    assert [layer.name for layer in source.layers if layer.module is not None] == ["first", "mix"]


@pytest.mark.parametrize("name", EVERY)
def test_every_weight_is_quantized_and_comes_back(tmp_path: Path, name: str) -> None:
    decompose = EVERY.index(name) % 2 == 1  # both have the same layers, as the other tests show
    module = Written(PRODUCTS[name].forward, PRODUCTS[name].tensors()) if name in PRODUCTS else MODULES[name]()
    program = exported(Inner(module), decompose=decompose)
    samples = [(inputs(4, seed),) for seed in range(8)]
    result = quantize(program, samples)
    assert result.report.verdict == "passed"
    assert result.report.summary.sqnr_db is not None
    assert result.report.summary.sqnr_db > LEAST_DB
    spelling = PRODUCTS.get(name)
    layers = {"first"} | (expected_layers(spelling, "inside") if spelling else {"mix"})
    assert layers == {layer.name for layer in result.report.layers}
    result.save(tmp_path)
    again = load(tmp_path)
    with torch.no_grad():
        assert torch.equal(again.module(inputs(3)), result.module(inputs(3)))
    tensors = load_file(tmp_path / "model.safetensors")
    assert not [n for n, tensor in tensors.items() if tensor.is_floating_point() and tensor.numel() >= IN * OUT]
    if spelling is not None and spelling.transposed:
        (layer,) = (layer for layer in result.report.layers if layer.name == "mix.w")
        assert (tensors["mix.w"].shape, layer.weight.axis) == (spelling.tensors()["w"].shape, 1)


class Gained(nn.Module):
    """One parameter that multiplies, and another weight that is computed from it."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.g = weight(OUT, IN), weight(OUT, 1, seed=1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return nn.functional.linear(x, self.w), nn.functional.linear(x, self.w * self.g)


@pytest.mark.parametrize("decompose", [False, True], ids=["exported", "decomposed"])
def test_a_parameter_and_what_is_computed_from_it_are_both_quantized_or_neither(
    tmp_path: Path, decompose: bool
) -> None:
    network, samples = Gained(), [(inputs(4, seed),) for seed in range(8)]
    program = exported(network, decompose=decompose)
    result = quantize(program, samples, recipe="int8-weight-only")
    result.save(tmp_path)
    with torch.no_grad():
        outputs = zip(network(inputs(3)), load(tmp_path).module(inputs(3)), result.module(inputs(3)), strict=True)
    for float_output, loaded, output in outputs:
        assert torch.equal(loaded, output)
        assert not torch.equal(float_output, output)
        torch.testing.assert_close(output, float_output, atol=0.05, rtol=0)
    for one in ("w", "w_linear"):
        with pytest.raises(InvalidRecipe, match="shared_weight_conflict"):
            quantize(program, samples, exclude=[one])


@pytest.mark.parametrize("left_in_float", ["w", "w_linear"])
def test_a_computed_weight_is_stored_before_its_source_becomes_integers(left_in_float: str) -> None:
    """A search may leave either of them in float."""
    source = program_source(exported(Gained()))
    tensors = prepared(source, {"w", "w_linear"} - {left_in_float}).tensors
    assert {"w", "w_linear.weight"} <= tensors.keys()


class ReadBesides(Gained):
    """The parameter is also added to the values, so it must stay as it is, and so must what is computed from it."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (*super().forward(x), x[..., None, :] + self.w)


def test_a_parameter_that_is_also_added_stays_in_float_with_what_is_computed_from_it() -> None:
    layers = {layer.name: layer.reason for layer in program_source(exported(ReadBesides())).layers}
    assert layers == dict.fromkeys(("w", "w_linear"), "shared_weight_conflict")


RECIPES = {
    "accurate": "int8-accurate",
    "int4": {"weights": {"dtype": "int4", "group_size": 4}, "activations": None, "algorithms": [{"kind": "gptq"}]},
    "groups": {"weights": {"granularity": "per_group", "group_size": 4}, "activations": None},
    "asymmetric": {"weights": {"dtype": "quint8", "scheme": "asymmetric"}},
    "other axis": {"weights": {"axis": 0}},
    "float8": "float8-static",
    "half": "float16",
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_transposed_weight_takes_every_recipe(tmp_path: Path, recipe: str) -> None:
    program = exported(Inner(Written(PRODUCTS["matmul"].forward, PRODUCTS["matmul"].tensors())))
    chosen: Any = RECIPES[recipe]
    result = quantize(program, [(inputs(4, seed),) for seed in range(8)], recipe=chosen)
    assert result.report.verdict == "passed"
    result.save(tmp_path)
    with torch.no_grad():
        assert torch.equal(load(tmp_path).module(inputs(3)), result.module(inputs(3)))
    rows = IN // 2 if recipe == "int4" else IN
    if any(layer.name == "mix.w" for layer in result.report.layers):
        assert list(load_file(tmp_path / "model.safetensors")["mix.w"].shape) == [rows, OUT]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tok = nn.Embedding(IN, IN)
        self.mix = nn.Linear(IN, IN)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.mix(self.tok(ids)).relu()
        return nn.functional.linear(hidden, self.tok.weight)


def test_a_functional_head_is_no_embedding() -> None:
    ids = torch.randint(0, IN, (4, 6))
    program = torch.export.export(Tied(), (ids,))
    calls = [(torch.randint(0, IN, (4, 6)),) for _ in range(8)]
    result = quantize(program, calls)
    assert {layer.name for layer in result.report.layers} == {"mix"}
    assert {s.name: s.reason for s in result.report.skipped} == {
        "tok": "type_skipped",
        "tok.linear": "shared_weight_conflict",
    }
    both = quantize(program, calls, recipe={"layer_types": ["Linear", "Embedding"], "skip_layers": []})
    assert {layer.name for layer in both.report.layers} == {"tok", "tok.linear", "mix"}


class Degenerate(nn.Module):
    """A vector, and layers without outputs, inputs or values, beside a layer that can be quantized."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(IN, IN)
        self.vector = nn.Parameter(torch.randn(IN))
        self.no_outputs = nn.Linear(IN, 0)
        self.no_inputs = nn.Linear(0, IN)
        self.scaled_sum = weight(IN, IN)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x = self.mix(x)
        scaled = torch.addmm(self.vector, x[:, 0], self.scaled_sum, alpha=2)
        return nn.functional.linear(x, self.vector), self.no_outputs(x), self.no_inputs(x[..., :0]), scaled


@pytest.mark.parametrize("decompose", [False, True], ids=["exported", "decomposed"])
def test_what_is_no_layer_is_unsupported(decompose: bool) -> None:
    samples = [(inputs(4, seed),) for seed in range(8)]
    result = quantize(exported(Degenerate(), decompose=decompose), samples, on_failure="ignore")
    assert {layer.name for layer in result.report.layers} == {"scaled_sum", "mix"}
    assert {s.name: s.reason for s in result.report.skipped} == dict.fromkeys(
        ("vector", "no_outputs", "no_inputs"), "unsupported"
    )


PARTS = ("weight_scale", "weight_zero_point", "input_scale", "input_zero_point", "pre_quant_scale", "outlier_channels")


class Named(nn.Module):
    """Modules and buffers with the names that our own have."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(IN, IN, bias=False)
        self.zeropoint_leaves = nn.Linear(IN, IN)
        self.zeropoint_outlets = nn.Linear(IN, IN)
        for part in (*PARTS, "outlier_weight", "bias_1"):
            self.mix.register_buffer(part, torch.randn(IN))
        self.mix.bias = nn.Parameter(torch.randn(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = nn.functional.linear(x, self.mix.weight) * self.mix.bias
        for part in (*PARTS, "outlier_weight", "bias_1"):
            hidden = hidden + self.mix.get_buffer(part)
        out: torch.Tensor = self.zeropoint_outlets(self.zeropoint_leaves(hidden))
        return out


@pytest.mark.parametrize(
    "recipe",
    [
        "int8-accurate",
        {"weights": {"dtype": "quint8", "scheme": "asymmetric"}, "algorithms": [{"kind": "bias_correction"}]},
    ],
    ids=["accurate", "asymmetric"],
)
def test_names_of_the_user_stay_with_the_user(tmp_path: Path, recipe: Any) -> None:
    network = Named()
    result = quantize(exported(network), [(inputs(4, seed),) for seed in range(8)], recipe=recipe)
    assert result.report.verdict == "passed"
    result.save(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    for name, buffer in network.named_buffers():
        assert torch.equal(tensors[name], buffer)
    assert torch.equal(tensors["mix.bias"], network.mix.bias)
    with torch.no_grad():
        assert torch.equal(load(tmp_path).module(inputs(3)), result.module(inputs(3)))


@pytest.mark.parametrize(
    ("include", "layers"),
    [
        ("mix.w", {"mix.w.0", "mix.w.1", "mix.w.2"}),
        ("mix.w.1", {"mix.w.1"}),
        ("first.weight", {"first"}),
        ("first.bias", {"first"}),
        ("mix.b", {"mix.w.0", "mix.w.1", "mix.w.2"}),
    ],
)
def test_a_pattern_may_name_a_parameter(include: str, layers: set[str]) -> None:
    program = exported(Inner(Written(PRODUCTS["chunked"].forward, PRODUCTS["chunked"].tensors())))
    result = quantize(program, [(inputs(4, seed),) for seed in range(8)], include=[include])
    assert {layer.name for layer in result.report.layers} == layers


def test_what_stays_in_float_is_stored_once(tmp_path: Path) -> None:
    program = exported(Inner(Written(PRODUCTS["chunked"].forward, PRODUCTS["chunked"].tensors())))
    samples = [(inputs(4, seed),) for seed in range(8)]
    quantize(program, samples, include=["first"]).save(tmp_path / "none")
    assert "mix.w" in load_file(tmp_path / "none" / "model.safetensors")
    quantize(program, samples, exclude=["mix.w.1"]).save(tmp_path / "some")
    tensors = load_file(tmp_path / "some" / "model.safetensors")
    assert "mix.w" not in tensors
    assert tensors["mix.w.1.weight"].is_floating_point()
    assert sum(t.numel() for t in tensors.values() if t.dim() == 2) == IN * IN + 3 * OUT * IN
