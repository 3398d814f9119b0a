"""What stays in float, by bytes and by work: told with the reason, and warned above a tenth unless asked for."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.networks import attention, convolutional
from zeropoint import quantize
from zeropoint.data.batches import ModelInputs
from zeropoint.schema.presets import PRESETS
from zeropoint.schema.report import Report, ReportWarning
from zeropoint.sources.module import module_source
from zeropoint.sources.program import program_source
from zeropoint.validation.float_run import watch_float_run


class Mixed(nn.Module):
    """A linear, a transposed convolution that can't be int4, and an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 8)
        self.body = nn.Linear(8, 8)
        self.up = nn.ConvTranspose1d(8, 16, 4)
        self.norm = nn.LayerNorm(16)

    def forward(self, ids: Tensor) -> Tensor:
        hidden = torch.relu(self.body(self.embed(ids)))
        output: Tensor = self.norm(self.up(hidden.mT).mT)
        return output


LINEARS = {"weights": {"dtype": "int4", "group_size": 8}, "activations": None}
"""A dtype that convolutions can't have: what this leaves out is not the user's choice."""
IDS = torch.randint(0, 50, (64, 6), generator=torch.Generator().manual_seed(0))


def told_of(**recipe: object) -> Report:
    torch.manual_seed(0)
    return quantize(Mixed(), list(torch.split(IDS, 8)), recipe=recipe, on_failure="ignore", progress=False).report


def left(told: Report, level: str = "warning") -> list[ReportWarning]:
    return [warning for warning in told.warnings if (warning.code, warning.level) == ("left_in_float", level)]


def test_shares_of_bytes_and_of_work_are_those_of_the_whole_model() -> None:
    told = told_of(**LINEARS)
    embed, body, up = 50 * 8, 8 * 8, 8 * 16 * 4
    assert told.summary.weights_in_float == pytest.approx((embed + up) / (embed + body + up))
    assert told.summary.macs_in_float == pytest.approx(up / (body + up))
    by_name = {skip.name: (skip.weights, skip.macs) for skip in told.skipped}
    assert by_name["up"] == pytest.approx((up / (embed + body + up), up / (body + up)))
    assert by_name["norm"] == (0.0, 0.0)


def test_an_operation_of_a_module_is_to_be_exported_and_is_quantized_in_the_program() -> None:
    example = attention()
    calls = [tuple(tensor[first : first + 2] for tensor in example.dataset.values()) for first in range(0, 8, 2)]
    (warning,) = left(quantize(example.module, calls, on_failure="ignore", progress=False).report)
    assert "unsupported" in warning.detail
    assert "torch.export.export" in warning.remedy
    program = torch.export.export(example.module, example.inputs, dynamic_shapes=example.dynamic)
    report = quantize(program, calls, on_failure="ignore", progress=False).report
    assert not any(name in warning.layers for told in left(report) for name in told.layers)


def test_more_than_a_tenth_is_warned_with_the_key_and_embeddings_are_a_note() -> None:
    told = told_of(**LINEARS)
    (warning,) = left(told)
    assert (told.verdict, warning.layers) == ("warned", ["up"])
    assert '"fallback": "int8"' in warning.remedy
    (note,) = left(told, "note")
    assert note.layers == ["embed"]
    assert '"skip_layers"' in note.remedy


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "words",
    [
        {"exclude": ["up"]},
        {"include": ["body"]},
        {"layer_types": ["Linear", "Conv2d", "Embedding"]},
        {"skip_layers": ["ConvTranspose1d", "LayerNorm"]},
        {"layer_types": ["Linear", "ConvTranspose1d"], "overrides": [{"names": ["up"], "weights": None}]},
        {"layer_types": ["Linear", "ConvTranspose1d"]},
    ],
    ids=lambda words: ", ".join(words),
)
def test_what_the_users_own_words_leave_out_does_not_count(words: dict[str, object]) -> None:
    assert left(told_of(**words)) == []


@pytest.mark.parametrize("fallback", [None, "int8"])
def test_what_a_dtype_can_not_hold_counts_unless_it_gets_another(fallback: str | None) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv1d(8, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 4, 4))
    data = list(torch.split(torch.randn(64, 8, 6), 8))
    recipe = PRESETS["int4-weight-only"].recipe.model_copy(update={"fallback": fallback})
    told = quantize(network, data, recipe=recipe, on_failure="ignore", progress=False).report
    assert [warning.layers for warning in left(told)] == ([["0"]] if fallback is None else [])
    assert told.verdict == ("warned" if fallback is None else "passed")


def test_a_head_that_shares_a_skipped_embedding_is_a_note(tmp_path: Path) -> None:
    example = attention()
    rows = [{name: tensor[i : i + 2] for name, tensor in example.dataset.items()} for i in range(0, 8, 2)]
    told = quantize(example.export(tmp_path / "m.pt2"), rows, progress=False).report
    assert (left(told), told.verdict) == ([], "passed")
    assert any("head" in note.layers or "embed" in note.layers for note in left(told, "note"))


class Idle(nn.Module):
    """Half of its weights are in a layer that no call reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.used(x)
        return y


def test_what_no_sample_reaches_is_a_note() -> None:
    told = quantize(Idle(), list(torch.split(torch.randn(64, 8), 8)), progress=False).report
    assert (left(told), told.verdict) == ([], "passed")
    (note,) = left(told, "note")
    assert note.layers == ["idle"]


def test_a_small_share_is_no_warning() -> None:
    network = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Unflatten(1, (64, 1)), nn.ConvTranspose1d(64, 2, 1))
    told = quantize(network, list(torch.split(torch.randn(64, 64), 8)), recipe=LINEARS, progress=False).report
    assert left(told) == []
    assert told.summary.weights_in_float == pytest.approx(128 / (128 + 64 * 64))


def test_dead_weights_are_no_part_of_the_model(tmp_path: Path) -> None:
    example = convolutional()
    told = quantize(example.export(tmp_path / "m.pt2"), [example.dataset["x"]], progress=False).report
    assert told.summary.weights_in_float == 0.0
    assert "dead_code" not in {share.reason for share in told.summary.in_float}


NETWORKS: dict[str, tuple[nn.Module, Tensor, dict[str, int]]] = {
    "linear": (nn.Sequential(nn.Linear(3, 5)), torch.randn(4, 7, 3), {"0": 4 * 7 * 15}),
    "linear without bias": (nn.Sequential(nn.Linear(3, 5, bias=False)), torch.randn(4, 3), {"0": 4 * 15}),
    "conv2d": (nn.Sequential(nn.Conv2d(4, 6, 3, groups=2)), torch.randn(2, 4, 8, 8), {"0": 2 * 36 * 6 * 2 * 9}),
    "strided": (nn.Sequential(nn.Conv1d(4, 6, 3, stride=2)), torch.randn(2, 4, 9), {"0": 2 * 4 * 6 * 4 * 3}),
    "transposed": (nn.Sequential(nn.ConvTranspose2d(4, 6, 3)), torch.randn(2, 4, 5, 5), {"0": 2 * 25 * 4 * 6 * 9}),
    "lstm": (
        nn.Sequential(nn.LSTM(4, 5, batch_first=True)),
        torch.randn(2, 3, 4),
        {"0.ih_l0": 6 * 80, "0.hh_l0": 6 * 100},
    ),
    "embedding": (nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 2)), torch.arange(6)[None], {"1": 6 * 8}),
}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("kind", ["module", "program"])
@pytest.mark.parametrize("name", NETWORKS)
def test_multiply_accumulates_are_counted_where_a_weight_is_read(name: str, kind: str) -> None:
    network, x, macs = NETWORKS[name]
    network = network.eval()
    if kind == "module":
        found = watch_float_run(module_source(network), ModelInputs([x])).macs
    else:
        found = watch_float_run(program_source(torch.export.export(network, (x,))), ModelInputs([x])).macs
    assert {name: count for name, count in found.items() if count} == macs


class Allocates(nn.Module):
    """Adds a tensor that was allocated, and filled or not."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.layer, self.how = nn.Linear(4, 4), how

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.empty_like(x) if "like" in self.how else torch.empty(4)
        if "filled" in self.how:
            rows.zero_()
        y: Tensor = self.layer(x + rows)
        return y


@pytest.mark.parametrize("kind", ["module", "program"])
@pytest.mark.parametrize(
    ("how", "differs"), [("a row", True), ("like", True), ("filled", False), ("like, filled", False)]
)
def test_a_result_that_depends_on_memory_that_nothing_fills_differs(how: str, differs: bool, kind: str) -> None:
    module, x = Allocates(how).eval(), torch.randn(2, 4)
    source = module_source(module) if kind == "module" else program_source(torch.export.export(module, (x,)))
    watched = watch_float_run(source, ModelInputs([x]))
    with torch.no_grad():
        again = source.run(ModelInputs([x]))
    for outputs in (again, watched.outputs):  # the second: another run was given the same memory, as allocators do
        assert watched.differs(outputs) == ([0] if differs else [])
