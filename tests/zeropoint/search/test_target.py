"""Targets: met with as little as it takes, and told as missed where they can't be."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.networks import Example, prenorm, residual
from tests.zeropoint.conftest import QuantizeExample
from zeropoint.algorithms.bias_correction import correct_biases
from zeropoint.algorithms.context import AlgorithmContext, left_in_float
from zeropoint.data.dataset import Dataset, open_dataset
from zeropoint.engine.plan import QuantizationPlan, plan
from zeropoint.engine.quantize import Resources, quantize_source
from zeropoint.formats import write_formats
from zeropoint.layers.result import Quantized
from zeropoint.model.source import ProgramSource, floating_outputs
from zeropoint.schema.algorithms import BiasCorrection
from zeropoint.schema.presets import ACCURATE, algorithms_of
from zeropoint.schema.recipe import Recipe
from zeropoint.simulation.fake_quant import simulated
from zeropoint.simulation.measure import Evaluator, MetricLoss
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
    result = searched(quantized, min_sqnr_db=plain_db - 12)
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
    assert "Not found within" in target.detail


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
        resources=Resources(metric_drop=lambda layers: MetricLoss(0.2 * (len(layers) > 2), torch.zeros(8))),
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


def outliers_in_evaluation() -> Example:
    """The last quarter of the samples, which is kept out to evaluate, is louder than the others."""
    example = residual(128)
    images = example.dataset["images"].clone()
    images[96:] *= 1.5
    return replace(example, dataset={"images": images})


def test_what_the_evaluation_misses_is_searched_for_once_more(quantized: QuantizeExample) -> None:
    example = outliers_in_evaluation()
    plain = quantized(example, **COARSE)
    assert plain.decisions.acceptance_db is not None
    asked = noise_on_evaluation(plain) + 2
    result = quantized(example, **COARSE, target={"min_sqnr_db": asked})
    assert asked <= plain.decisions.acceptance_db - 3
    assert asked <= noise_on_evaluation(result)
    assert in_float(result) or widths(result) > widths(plain)


def widths(result: Quantized) -> float:
    return sum(layer.activation.maximum - layer.activation.minimum for layer in result.layers if layer.activation)


def plan_of(result: Quantized) -> QuantizationPlan:
    return plan(result.source, result.recipe, samples_of(result))


def samples_of(result: Quantized) -> Dataset:
    assert isinstance(result.source, ProgramSource)
    return open_dataset(DATASETS[0], result.source.inputs, None)


DATASETS: list[Path] = []


@pytest.fixture(autouse=True)
def _dataset(tmp_path: Path) -> None:
    DATASETS[:] = [tmp_path / "dataset.safetensors"]


def noise_on_evaluation(result: Quantized) -> float:
    batches = plan_of(result).evaluation.batches
    assert batches is not None
    return Evaluator(result.source, batches).noise(result.layers).db or 999.0


def test_the_margin_is_what_the_samples_show(quantized: QuantizeExample) -> None:
    """Not a constant: samples that differ more need more of it."""
    calm, wild = residual(128), residual(128)
    wild.dataset["images"] *= torch.rand(128, 1, 1, 1) * 3 + 0.1
    margins = []
    for example in (calm, wild):
        target = quantized(example, **COARSE, activations=None, target={"min_sqnr_db": 20}).decisions.target
        assert target is not None
        assert target.met
        assert target.value is not None
        assert target.bound == pytest.approx(target.value - (target.margin_db or 0))
        margins.append(target.margin_db or 0)
    assert 0 < margins[0] < margins[1]


def test_biases_are_those_of_the_layers_that_stay_quantized(quantized: QuantizeExample) -> None:
    """Correcting them once more for the chosen set changes nothing."""
    result = quantized(residual(128), **COARSE, activations=None, target={"min_sqnr_db": 65})
    assert in_float(result)
    batches = plan_of(result)
    assert batches.calibration is not None
    context = AlgorithmContext(result.source, batches.calibration, {})
    layers = {layer.layer.name: layer for layer in result.layers}
    for name, again in correct_biases(BiasCorrection(), context, layers).items():
        bias, expected = layers[name].bias, again.bias
        assert bias is not None
        assert expected is not None
        assert torch.equal(bias, expected)


def test_few_samples_say_that_they_cannot_bound_a_drop(tmp_path: Path) -> None:
    example = residual(48)
    source = open_uploaded_program(example.export(tmp_path / "model.pt2"), "cpu")
    samples = open_dataset(example.save_dataset(tmp_path / "data.safetensors"), source.inputs, None)
    recipe = Recipe.model_validate({"target": {"max_drop": {"metric": "top1", "value": 0.01}}})
    found = {}
    for rows in (20, 1000):
        drop = MetricLoss(0.0, torch.zeros(rows))
        result = quantize_source(
            source,
            recipe,
            plan(source, recipe, samples),
            lambda *_: None,
            resources=Resources(metric_drop=lambda _, drop=drop: drop),  # type: ignore[misc]
        )
        assert result.decisions.target is not None
        found[rows] = result.decisions.target
    assert found[20].met
    assert found[20].bound is None
    assert "too few" in found[20].detail
    assert found[1000].met
    assert 0 < (found[1000].bound or 0) <= 0.01


@pytest.mark.parametrize("float_layer", ["query", "up"])
def test_a_normalization_holds_no_factor_for_a_layer_in_float(
    tmp_path: Path, quantized: QuantizeExample, float_layer: str
) -> None:
    """What is saved computes what was measured, whichever layer leaves a group that shares a smoothed input."""
    algorithms = [{"kind": "smoothing", "alpha": 0.9}]
    example = prenorm(64)
    for norm in ("norm", "last_norm"):
        example.module.get_parameter(f"{norm}.weight").data[0] = 60.0
    result = quantized(example, algorithms=algorithms)
    assert any(layer.scaled_by for layer in result.layers)
    assert isinstance(result.source, ProgramSource)
    planned = plan_of(result)
    assert planned.calibration is not None
    context = AlgorithmContext(result.source, planned.calibration, {})
    kept = left_in_float(context, {layer.layer.name: layer for layer in result.layers}, [float_layer])
    left = replace(result, layers=list(kept.values()))
    list(write_formats(left, tmp_path, ("safetensors", "pt2")))
    batch = next(iter(planned.calibration))
    saved = torch.export.load(tmp_path / "model.pt2").module()(*batch)
    with simulated(left.layers):
        measured = floating_outputs(result.source, batch)[0]
    assert len(left.layers) == len(result.layers) - 1
    assert float((saved.detach() - measured).square().sum() / measured.square().sum()) < 1e-6
