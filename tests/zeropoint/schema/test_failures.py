"""A remedy names a setting that is smaller than the one in use."""

import pytest

from zeropoint.schema.failures import fewer_samples, less_on_disk, smaller_batch
from zeropoint.schema.recipe import CalibrationSettings, Recipe


@pytest.mark.parametrize(("batch_size", "smaller"), [(None, 8), (64, 16), (8, 2), (3, 1), (2, 1)])
def test_a_quarter_of_the_batch(batch_size: int | None, smaller: int) -> None:
    recipe = Recipe(calibration=CalibrationSettings(batch_size=batch_size))
    assert smaller_batch(recipe) == f'Set "calibration": {{"batch_size": {smaller}}} in the recipe'


def test_with_one_sample_in_the_batch_something_else_must_go() -> None:
    recipe = Recipe(calibration=CalibrationSettings(batch_size=1))
    assert smaller_batch(recipe) == 'Set "formats": ["safetensors"] in the recipe'


@pytest.mark.parametrize(("samples", "fewer"), [(None, 64), (10, 5), (1, 1)])
def test_half_of_the_samples(samples: int | None, fewer: int) -> None:
    recipe = Recipe(calibration=CalibrationSettings(samples=samples))
    assert fewer_samples(recipe) == f'Set "calibration": {{"samples": {fewer}}} in the recipe'


def test_the_smallest_choice_of_formats_and_then_fewer_samples() -> None:
    assert less_on_disk(Recipe()) == 'Set "formats": ["safetensors"] in the recipe'
    assert less_on_disk(Recipe(formats=("safetensors",))) == "Upload fewer samples"
