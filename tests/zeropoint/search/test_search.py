"""A search goes on where it was left, to the same bytes; its plan is a recipe that gives the same again."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.networks import prenorm
from zeropoint.data.dataset import open_dataset
from zeropoint.engine.plan import plan
from zeropoint.engine.quantize import Resources, quantize_source
from zeropoint.files.checkpoints import Checkpoints
from zeropoint.formats import VALIDATED, WRITERS, write_formats
from zeropoint.layers.result import Quantized
from zeropoint.model.source import ProgramSource
from zeropoint.schema.job import Phase
from zeropoint.schema.recipe import Recipe
from zeropoint.simulation.measure import Evaluator
from zeropoint.sources.program import open_uploaded_program
from zeropoint.validation.report import recommended

RECIPE = Recipe.model_validate(
    {
        "algorithms": [
            {"kind": "smoothing", "alpha": 0.5},
            {"kind": "outlier_split", "channels": 1},
            {"kind": "gptq"},
            {"kind": "bias_correction"},
            {"kind": "mixed_precision", "until_db": 300},
            {"kind": "bias_correction"},
        ]
    }
)


class Death(Exception):
    """The machine is gone."""


def run(folder: Path, recipe: Recipe, checkpoints: Checkpoints, dies_at: int = -1) -> Quantized:
    example = prenorm(64)
    source = open_uploaded_program(example.export(folder / "model.pt2"), "cpu")
    samples = open_dataset(example.save_dataset(folder / "data.safetensors"), source.inputs, None)

    def report(phase: Phase, done: int, _: int) -> None:
        if (phase, done) == ("quantizing", dies_at):
            raise Death

    return quantize_source(source, recipe, plan(source, recipe, samples), report, resources=Resources(checkpoints))


def files(result: Quantized, folder: Path) -> list[bytes]:
    folder.mkdir()
    return [(folder / WRITERS[name].file).read_bytes() for name in write_formats(result, folder, VALIDATED["pt2"])]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("pieces", range(1, 7))
def test_it_goes_on_where_it_was_left_to_the_same_bytes(
    tmp_path: Path, pieces: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tmp_path, RECIPE, Checkpoints())
    with pytest.raises(Death):
        run(tmp_path, RECIPE, Checkpoints(tmp_path / "kept", "key", 0.0), dies_at=5 + pieces)
    seen: list[int] = []
    noise = Evaluator.noise
    monkeypatch.setattr(Evaluator, "noise", lambda gate, layers: seen.append(1) or noise(gate, layers))  # type: ignore[func-returns-value]
    resumed = Checkpoints(tmp_path / "kept", "key", 0.0)
    again = run(tmp_path, RECIPE, resumed)
    assert "quantizing" in resumed.resumed
    ends = 4  # the result with ranges from all samples, before limits for pairs, with them, and with other biases
    # what was tried is not tried again, and the plain layers are not measured again
    assert len(seen) <= 6 - pieces + ends
    assert again.decisions == whole.decisions
    assert files(again, tmp_path / "again") == files(whole, tmp_path / "whole")


def test_the_plan_is_a_recipe_that_gives_the_same(tmp_path: Path) -> None:
    first = run(tmp_path, RECIPE, Checkpoints())
    left = {skip.name for skip in first.skipped if skip.reason == "mixed_precision"}
    advised = recommended(first)
    assert {name for override in advised.overrides for name in override.names} == left != set()
    kept = [step.algorithm for step in first.decisions.algorithms if step.kept]
    assert [piece.kind for piece in advised.algorithms] == [kind for kind in kept if kind != "mixed_precision"]
    assert (advised.mode, advised.target) == ("quantize", None)
    second = run(tmp_path, advised, Checkpoints())
    assert [layer.layer.name for layer in second.layers] == [layer.layer.name for layer in first.layers]
    measured = []
    for result in (first, second):
        assert isinstance(result.source, ProgramSource)
        samples = open_dataset(tmp_path / "data.safetensors", result.source.inputs, None)
        measured.append(Evaluator(result.source, samples).noise(result.layers).db or 0.0)
    assert abs(measured[0] - measured[1]) < 2


def test_a_recommendation_keeps_what_was_asked(tmp_path: Path) -> None:
    asked = RECIPE.model_copy(update={"exclude": ("down",)})
    recipe = Recipe.model_validate({**asked.model_dump(), "mode": "recommend", "sensitivity": True})
    result = run(tmp_path, recipe, Checkpoints())
    advised = recommended(replace(result, recipe=recipe))
    assert (advised.exclude, advised.sensitivity) == (("down",), True)


def test_the_samples_that_decide_calibrate_nothing(tmp_path: Path) -> None:
    example = prenorm(64)
    source = open_uploaded_program(example.export(tmp_path / "model.pt2"), "cpu")
    samples = open_dataset(example.save_dataset(tmp_path / "data.safetensors"), source.inputs, None)
    decided, plain = plan(source, RECIPE, samples), plan(source, Recipe(), samples)
    assert plain.acceptance is None
    assert decided.acceptance is not None
    assert decided.calibration is not None
    assert plain.calibration is not None
    assert decided.acceptance.count == plain.calibration.count // 4
    assert decided.acceptance.count + decided.calibration.count == plain.calibration.count
    assert decided.held_out == plain.held_out
    few = open_dataset(prenorm(1).save_dataset(tmp_path / "few.safetensors"), source.inputs, None)
    assert plan(source, RECIPE, few).acceptance == plan(source, RECIPE, few).calibration
