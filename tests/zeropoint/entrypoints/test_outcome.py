"""What a failed check, a missed target and a plan are in Python: an error, a warning, nothing, or no model."""

import warnings
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from zeropoint import Plan, QuantizationWarning, load, quantize
from zeropoint.errors import Unsupported, ValidationFailed
from zeropoint.schema.report import Report

OnFailure = Literal["error", "warn", "ignore"]
FAILED = {"validation": {"min_sqnr_db": 200}}
MISSED = {"target": {"max_bytes": 1}, "algorithms": [{"kind": "bias_correction"}]}


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def calls() -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(4, 8) for _ in range(16)]


@pytest.mark.parametrize(("recipe", "code"), [(FAILED, "validation_failed"), (MISSED, "target_not_met")])
@pytest.mark.parametrize("on_failure", [None, "error"])
def test_by_default_and_under_error_it_is_raised_with_its_report(
    recipe: dict[str, object], code: str, on_failure: OnFailure | None
) -> None:
    with pytest.raises(ValidationFailed) as failed:
        quantize(model(), calls(), recipe=recipe, on_failure=on_failure)
    assert failed.value.code == code
    assert isinstance(failed.value.report, Report)
    assert failed.value.detail
    assert failed.value.remedy


@pytest.mark.parametrize(("recipe", "word"), [(FAILED, "at least 200 dB"), (MISSED, "Not found within")])
def test_under_warn_the_result_is_there_and_a_warning_names_the_callers_line(
    recipe: dict[str, object], word: str
) -> None:
    with pytest.warns(QuantizationWarning, match=word) as seen:
        q = quantize(model(), calls(), recipe=recipe, on_failure="warn")
    assert q.report.verdict == "warned"
    assert [Path(warning.filename).name for warning in seen] == ["test_outcome.py"]


@pytest.mark.parametrize("recipe", [FAILED, MISSED])
def test_under_ignore_nothing_is_said(recipe: dict[str, object]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert quantize(model(), calls(), recipe=recipe, on_failure="ignore").report.verdict in ("failed", "warned")


@pytest.mark.parametrize("on_failure", ["error", "warn", "ignore"])
def test_what_passes_says_nothing(on_failure: OnFailure) -> None:
    assert quantize(model(), calls(), on_failure=on_failure).report.verdict == "passed"


def test_a_plan_that_misses_its_target_is_there_with_a_warning() -> None:
    with pytest.warns(QuantizationWarning, match="Not found within"):
        plan = quantize(model(), calls(), recipe=MISSED | {"mode": "recommend"})
    assert isinstance(plan, Plan)
    assert plan.report.target is not None
    assert not plan.report.target.met


def test_a_plan_has_a_recipe_and_a_report_and_no_model(tmp_path: Path) -> None:
    recipe = {"mode": "recommend", "algorithms": [{"kind": "bias_correction"}]}
    plan = quantize(model(), calls(), recipe=recipe)
    assert isinstance(plan, Plan)
    assert plan.report.verdict == "not_evaluated"
    assert plan.recipe.mode == "quantize"
    for use in (lambda: plan(calls()[0]), lambda: plan.save(tmp_path / "out")):
        with pytest.raises(Unsupported) as refused:
            use()
        assert refused.value.code == "plan_without_model"
    assert not (tmp_path / "out").exists()
    assert repr(plan).startswith("Plan\n")
    done = quantize(model(), calls(), recipe=plan.recipe)
    assert sorted(layer.name for layer in done.report.layers) == [layer.name for layer in plan.report.layers]
    done.save(tmp_path)
    assert torch.equal(load(tmp_path, model=model())(calls()[0]), done(calls()[0]))
