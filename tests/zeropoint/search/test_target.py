"""Targets: met with as little as it takes, and told as missed where they can't be."""

from pathlib import Path

import pytest

from tests.networks import residual
from tests.zeropoint.conftest import QuantizeExample
from zeropoint.data.dataset import open_dataset
from zeropoint.engine.plan import plan
from zeropoint.engine.quantize import Resources, quantize_source
from zeropoint.layers.result import Quantized
from zeropoint.schema.presets import ACCURATE, algorithms_of
from zeropoint.schema.recipe import Recipe
from zeropoint.sources.program import open_uploaded_program

COARSE = {"weights": {"granularity": "per_tensor"}, "algorithms": [{"kind": "bias_correction"}]}


def searched(quantized: QuantizeExample, **target: object) -> Quantized:
    return quantized(residual(48), **COARSE, target=target)


def in_float(result: Quantized) -> list[str]:
    return [skip.name for skip in result.skipped if skip.reason == "mixed_precision"]


@pytest.fixture
def plain_db(quantized: QuantizeExample) -> float:
    result = quantized(residual(48), **COARSE)
    assert result.decisions.acceptance_db is not None
    return result.decisions.acceptance_db


def test_what_is_met_anyway_costs_nothing(quantized: QuantizeExample, plain_db: float) -> None:
    result = searched(quantized, min_sqnr_db=plain_db - 5)
    assert in_float(result) == []
    assert result.decisions.target is not None
    assert (result.decisions.target.met, result.decisions.target.macs_in_float) == (True, 0.0)


def test_layers_stay_in_float_as_few_as_it_takes(quantized: QuantizeExample, plain_db: float) -> None:
    some, more = (searched(quantized, min_sqnr_db=plain_db + gain) for gain in (2, 12))
    for result, asked in ((some, plain_db + 2), (more, plain_db + 12)):
        target = result.decisions.target
        assert target is not None
        assert target.met
        assert target.value is not None
        assert target.value >= asked
        assert target.layers_in_float == len(in_float(result)) > 0
        assert 0 < (target.macs_in_float or 0) < 1
    assert len(in_float(some)) <= len(in_float(more)) < len(more.layers) + len(in_float(more))


def test_one_layer_is_quantized_at_least_and_a_miss_is_told(quantized: QuantizeExample) -> None:
    result = searched(quantized, min_sqnr_db=300)
    target = result.decisions.target
    assert target is not None
    assert not target.met
    assert len(result.layers) >= 1
    assert "can't be met" in target.detail


def test_within_so_many_bytes_the_loudest_layers_are_float(quantized: QuantizeExample) -> None:
    smallest = searched(quantized, max_bytes=1)
    assert smallest.decisions.target is not None
    assert (smallest.decisions.target.met, in_float(smallest)) == (False, [])
    room = smallest.bytes + 3000
    result = searched(quantized, max_bytes=room)
    target = result.decisions.target
    assert target is not None
    assert target.met
    assert target.value == result.bytes <= room
    assert in_float(result)
    assert result.decisions.acceptance_db is not None
    assert smallest.decisions.acceptance_db is not None
    assert result.decisions.acceptance_db > smallest.decisions.acceptance_db


def test_a_drop_is_measured_by_whoever_knows_the_metric(tmp_path: Path) -> None:
    example = residual(48)
    source = open_uploaded_program(example.export(tmp_path / "model.pt2"), "cpu")
    samples = open_dataset(example.save_dataset(tmp_path / "data.safetensors"), source.inputs, None)
    recipe = Recipe.model_validate({"target": {"max_drop": {"metric": "top1", "value": 0.1}}, "algorithms": []})
    result = quantize_source(
        source,
        recipe,
        plan(source, recipe, samples),
        lambda *_: None,
        resources=Resources(metric_drop=lambda layers: 0.2 * (len(layers) > 2)),
    )
    target = result.decisions.target
    assert target is not None
    assert (target.met, target.value, len(result.layers)) == (True, 0.0, 2)


def test_a_target_without_algorithms_tries_those_of_the_accurate_preset() -> None:
    pieces = algorithms_of(Recipe.model_validate({"target": {"max_bytes": 1}}))
    assert [piece.kind for piece in pieces] == [p.kind for p in ACCURATE if p.kind != "mixed_precision"]
    assert algorithms_of(Recipe()) == ()


@pytest.mark.parametrize("target", [{}, {"min_sqnr_db": 1, "max_bytes": 1}])
def test_a_target_is_one_wish(target: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="exactly one"):
        Recipe.model_validate({"target": target})
