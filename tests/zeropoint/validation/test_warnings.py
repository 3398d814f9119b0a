"""No verdict over noise: each family of results whose numbers mean little is warned, and sound results are not."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.networks import Example, attention, audio, convolutional, counting, prenorm, residual
from tests.networks_in_training import WIDTH, export, suspects
from zeropoint import quantize
from zeropoint.schema.presets import PRESETS
from zeropoint.schema.recipe import Recipe
from zeropoint.schema.report import Report
from zeropoint.validation.warnings import better_recipe


def report(module: nn.Module, x: Tensor, **recipe: object) -> Report:
    wish = {**recipe, "validation": {"on_failure": "ignore", **recipe.get("validation", {})}}  # type: ignore[dict-item]
    return quantize(module.eval(), list(torch.split(x, 8)), recipe=wish, progress=False).report


def codes(told: Report, level: str = "warning") -> list[str]:
    return [warning.code for warning in told.warnings if warning.level == level]


SOUND: list[Callable[[], Example]] = [convolutional, residual, prenorm, counting, audio, attention]


@pytest.mark.parametrize("make", SOUND)
def test_a_sound_result_has_no_warning(make: Callable[[], Example], tmp_path: Path) -> None:
    example = make()
    names = list(example.dataset)
    rows = [{name: example.dataset[name][i : i + 4] for name in names} for i in range(0, 8, 4)]
    if make is attention:
        rows = [{name: tensor[i : i + 2] for name, tensor in example.dataset.items()} for i in range(0, 8, 2)]
    told = quantize(example.export(tmp_path / "m.pt2"), rows, progress=False).report
    doubts = [warning.code for warning in told.warnings if warning.code != "left_in_float"]
    assert doubts == [], told.warnings


def uneven(width: int, factor: float, channel: int) -> nn.Module:
    """Linear - ReLU - Linear with a channel that is small in the middle and counts most at the end."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 8))
    with torch.no_grad():
        module[0].weight[channel] /= factor  # type: ignore[operator, index]
        module[0].bias[channel] = 0  # type: ignore[operator]
        module[2].weight[:, channel] *= factor  # type: ignore[operator, index]
    return module


@pytest.mark.parametrize(("width", "factor", "channel"), [(64, 3000, 3), (16, 1000, 0), (32, 1e5, 31)])
def test_channels_of_very_different_size_are_named(width: int, factor: float, channel: int) -> None:
    told = report(uneven(width, factor, channel), torch.randn(64, width))
    assert told.verdict == "warned"
    assert {"low_sqnr", "uneven_channels"} <= set(codes(told))
    named = {warning.code: warning for warning in told.warnings}
    assert named["uneven_channels"].layers == ["2"]
    assert '"int8"' in named["low_sqnr"].remedy


@pytest.mark.parametrize("columns", [1, 3])
def test_a_table_of_columns_that_nobody_scaled_is_named(columns: int) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    x = torch.randn(64, 8)
    x[:, :columns] *= 1e6
    with torch.no_grad():
        module[0].weight[:, :columns] /= 1e8  # type: ignore[operator, index]
    told = report(module, x)
    assert (told.verdict, "uneven_channels" in codes(told)) == ("warned", True)


def test_the_floor_is_the_recipes() -> None:
    module, x = uneven(16, 1000, 0), torch.randn(64, 16)
    assert "low_sqnr" not in codes(report(module, x, validation={"warn_below_db": None}))
    sound = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    assert "low_sqnr" not in codes(report(sound, x))
    told = report(sound, x, validation={"warn_below_db": 300})
    assert (told.verdict, codes(told)) == ("warned", ["low_sqnr"])


class Outputs(nn.Module):
    """Several outputs, of which one is bad, one an input as it came, and one of integers."""

    def __init__(self) -> None:
        super().__init__()
        self.good, self.bad = nn.Linear(16, 4), uneven(16, 1e4, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        scores = self.good(x)
        return {"scores": scores, "boxes": self.bad(x), "given": 1e3 * x, "labels": scores.argmax(-1)}


def test_the_worst_output_decides_and_is_named() -> None:
    told = report(Outputs(), torch.randn(64, 16))
    assert told.verdict == "warned"
    low = next(warning for warning in told.warnings if warning.code == "low_sqnr")
    assert low.outputs == ["boxes"]
    by_name = {output.name: output for output in told.outputs}
    assert list(by_name) == ["scores", "boxes", "given", "labels"]
    assert by_name["given"].exact
    assert told.summary.worst_output_db == by_name["boxes"].sqnr_db
    assert told.summary.sqnr_db is not None
    assert told.summary.sqnr_db < 20  # not what the input as it came would make of it
    assert (by_name["labels"].sqnr_db, by_name["labels"].agreement is not None) == (None, True)
    assert not told.summary.exact


class Labels(nn.Module):
    """Integer or bool outputs alone."""

    def __init__(self, kind: str, body: nn.Module) -> None:
        super().__init__()
        self.body, self.kind = body, kind

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.body(x)
        return {"argmax": scores.argmax(-1), "bool": scores > 0, "rounded": (100 * scores).to(torch.int32)}[self.kind]


@pytest.mark.parametrize("kind", ["argmax", "bool", "rounded"])
def test_integers_alone_are_compared_and_judged_by_agreement(kind: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(512, 16)
    bad = report(Labels(kind, uneven(16, 1e5, 2)), x)
    assert (bad.verdict, bad.summary.exact, bad.summary.sqnr_db) == ("warned", False, None)
    assert "low_agreement" in codes(bad)
    if kind != "rounded":  # 100 steps a unit are finer than 8 bits
        good = report(Labels(kind, nn.Linear(16, 8)), x)
        assert (good.verdict, codes(good)) == ("passed", [])
        assert good.summary.worst_agreement is not None
        assert good.summary.exact == (good.summary.worst_agreement == 1)
        assert good.summary.worst_agreement > 0.9


class Unstable(nn.Module):
    """A float model that gives something else each time."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.layer, self.how = nn.Linear(8, 8), how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "noise":
            x = x + torch.randn_like(x)
        if self.how == "dropout":
            x = nn.functional.dropout(x, 0.3, training=True)
        if self.how == "empty":
            x = x + torch.empty_like(x).clamp(-1, 1).nan_to_num()
        y: Tensor = self.layer(x)
        if self.how == "empty at the end":
            y = y + torch.empty(8).nan_to_num().clamp(-1, 1) * 0.5
        if self.how == "labels":
            return y.argmax(-1) + torch.randint_like(y[:, 0], 0, 2).long()
        return y


@pytest.mark.parametrize("how", ["noise", "dropout", "labels"])
def test_a_model_that_is_not_deterministic_is_warned(how: str) -> None:
    told = report(Unstable(how), torch.randn(64, 8))
    assert (told.verdict, "not_deterministic" in codes(told)) == ("warned", True)
    advice = [warning.remedy for warning in told.warnings if warning.code in ("low_sqnr", "low_agreement")]
    assert not [text for text in advice if "preset" in text]  # no recipe helps against noise of the model's own


def test_a_tensor_that_is_filled_is_no_doubt() -> None:
    class Fills(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            rows = torch.empty_like(x)
            rows.copy_(x)
            y: Tensor = self.layer(rows)
            return y

    assert codes(report(Fills(), torch.randn(64, 8))) == []


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("module", ["batch norm 1d", "dropout"])
def test_a_program_in_training_mode_is_warned_by_name(module: str, tmp_path: Path) -> None:
    suspect, path = suspects()[module]
    export(suspect, tmp_path / "model.pt2", train=True)
    data = list(torch.split(torch.randn(64, WIDTH), 16))
    recipe = {"validation": {"on_failure": "ignore"}}
    told = quantize(tmp_path / "model.pt2", data, recipe=recipe, progress=False).report
    assert told.verdict == "warned"
    (warning,) = [warning for warning in told.warnings if warning.code == "training_mode"]
    assert warning.layers == [path]


@pytest.mark.parametrize(
    "x", [torch.zeros(64, 8), torch.full((64, 8), 2.0), torch.randn(1, 8).expand(64, 8).clone()], ids=str
)
def test_samples_that_do_not_vary_are_warned(x: Tensor) -> None:
    told = report(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)), x)
    assert told.verdict == "warned"
    assert "constant_samples" in codes(told)


class Decoder(nn.Module):
    """Scores over many tokens, made of features with a few channels a hundred times larger: as language models' are."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(200, 32)
        self.up, self.head = nn.Linear(32, 64), nn.Linear(64, 200)
        with torch.no_grad():
            self.up.weight[:2] *= 400

    def forward(self, ids: Tensor) -> Tensor:
        scores: Tensor = self.head(torch.tanh(self.up(self.embed(ids)) / 8) * 0.05 + self.up(self.embed(ids)) * 0.01)
        return scores


def test_a_decoder_that_names_other_tokens_is_warned_with_the_preset_that_does_better() -> None:
    torch.manual_seed(0)
    ids = torch.randint(0, 200, (64, 8))
    told = report(Decoder(), ids)
    agreement = next(metric.value for metric in told.metrics if metric.name == "agreement")
    if agreement is not None and agreement < 0.5:
        assert told.verdict == "warned"
        assert any('"int8"' in warning.remedy for warning in told.warnings)


PRESETS_NAMED: Mapping[str, str] = {
    "int8-static": "int8",
    "int8": "int8-accurate",
    "int8-accurate": "int8-weight-only",
    "int4-weight-only": "int8-weight-only",
    "float8-static": "int8",
    "int8-weight-only": "float16",
}


@pytest.mark.parametrize("name", PRESETS_NAMED)
def test_the_remedy_names_a_preset_that_exists(name: str) -> None:
    assert f'"{PRESETS_NAMED[name]}"' in better_recipe(PRESETS[name].recipe, ["a", "b"])
    assert PRESETS_NAMED[name] in PRESETS
    assert better_recipe(Recipe(), []).endswith(".")


def windows(recordings: int, each: int) -> Tensor:
    """Windows of recordings, each with a loudness of its own."""
    torch.manual_seed(0)
    loudness = (torch.randn(recordings, 1)).exp().repeat_interleave(each, 0)
    return loudness * torch.randn(recordings * each, 16)


@pytest.mark.parametrize("recordings", [4, 8])
def test_samples_held_out_beside_those_that_calibrate_are_named_with_what_blocks_say(recordings: int) -> None:
    network = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8))
    rows = windows(recordings, 24)
    quantized = quantize(network, list(rows.split(16)), on_failure="ignore", progress=False).report  # type: ignore[no-untyped-call]
    [warning] = [found for found in quantized.warnings if found.code == "neighbouring_samples"]
    least = float(re.search(r"have (-?[0-9.]+) dB", warning.detail)[1])  # type: ignore[index]
    assert quantized.summary.sqnr_db is not None
    assert least < quantized.summary.sqnr_db
    shuffled = rows[torch.randperm(len(rows))]
    for data, evaluation in ((shuffled, None), (rows, shuffled[:32])):
        report = quantize(
            network,
            list(data.split(16)),  # type: ignore[no-untyped-call]
            evaluation_data=None if evaluation is None else [evaluation],
            on_failure="ignore",
            progress=False,
        ).report
        assert "neighbouring_samples" not in [found.code for found in report.warnings]
