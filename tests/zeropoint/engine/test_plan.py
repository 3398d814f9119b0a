"""Which samples calibrate, decide and evaluate: shares that reports and numbers depend on."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.networks import Example, residual
from zeropoint.data.batches import Samples
from zeropoint.data.dataset import open_dataset
from zeropoint.engine.plan import QuantizationPlan, plan
from zeropoint.schema.recipe import Recipe
from zeropoint.sources.program import open_uploaded_program

SEARCHES = Recipe.model_validate({"algorithms": [{"kind": "bias_correction"}]})


def planned(folder: Path, rows: int, recipe: Recipe, *, evaluation: int = 0) -> QuantizationPlan:
    example: Example = residual(8)
    source = open_uploaded_program(example.export(folder / "model.pt2"), "cpu")
    save_file({"images": torch.randn(rows, 1, 8, 8)}, folder / "data.safetensors")
    samples = open_dataset(folder / "data.safetensors", source.inputs, 4)
    given = samples.between(0, evaluation) if evaluation else None
    return plan(source, recipe, samples, given)


def extent(samples: object) -> tuple[int, int]:
    assert isinstance(samples, Samples)
    return samples.start, samples.stop


@pytest.mark.parametrize("rows", [16, 40, 96, 128])
def test_the_last_quarter_of_what_calibrates_decides(tmp_path: Path, rows: int) -> None:
    found = planned(tmp_path, rows, SEARCHES, evaluation=4)
    assert extent(found.calibration) == (0, rows - rows // 4)
    assert extent(found.acceptance) == (rows - rows // 4, rows)


@pytest.mark.parametrize("rows", [16, 40, 96])
def test_before_that_the_last_quarter_of_all_is_kept_out_to_evaluate(tmp_path: Path, rows: int) -> None:
    found = planned(tmp_path, rows, SEARCHES)
    calibrating = rows - rows // 4
    assert extent(found.held_out) == (calibrating, rows)
    assert extent(found.acceptance) == (calibrating - calibrating // 4, calibrating)
    assert found.evaluation.independent is found.evaluation.batches


def test_a_recipe_that_decides_nothing_calibrates_on_all(tmp_path: Path) -> None:
    found = planned(tmp_path, 40, Recipe(), evaluation=4)
    assert (extent(found.calibration), found.acceptance) == ((0, 40), None)


def test_samples_that_calibrate_are_not_independent(tmp_path: Path) -> None:
    found = planned(tmp_path, 4, Recipe())
    assert found.evaluation.source == "calibration_samples"
    assert found.evaluation.independent is None
