"""Each code has its words, and a remedy names a setting that is smaller than the one in use."""

import pytest

from zeropoint.schema.failures import FAILURES, describe_failure, fewer_samples, less_on_disk, smaller_batch
from zeropoint.schema.job import Phase
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


@pytest.mark.parametrize("code", FAILURES)
@pytest.mark.parametrize("phase", [None, "saving"])
def test_the_words_of_a_code_are_whole(code: str, phase: Phase | None) -> None:
    failure = describe_failure(code, phase, Recipe(), how="SIGSEGV", seconds=60, attempt=3)
    assert (failure.code, failure.phase) == (code, phase)
    assert "{when}" not in FAILURES[code].detail or ("while saving" in failure.detail) == (phase is not None)
    assert all(text[-1] == "." and text[0].isupper() for text in (failure.detail, failure.remedy))


def test_a_fact_that_a_detail_needs_is_not_left_out() -> None:
    with pytest.raises(KeyError, match="seconds"):
        describe_failure("wall_time_limit")
