"""What `quantize` returns in the mode "recommend": what it would do, and no model."""

from pathlib import Path
from typing import Any, Never

from zeropoint.errors import Unsupported
from zeropoint.loading.quantized_model import QuantizedModel
from zeropoint.schema.recipe import Recipe
from zeropoint.schema.report import Report


class Plan(QuantizedModel):
    """A plan: its `recipe` does what was decided, its `report` says why. It can't be called or saved."""

    def __init__(self, report: Report) -> None:
        super().__init__(report, _refuse, {})

    @property
    def recipe(self) -> Recipe:
        """Return the recipe that does what was decided, without a target."""
        return self.report.recommendation or self.report.recipe

    def save(self, path: str | Path) -> None:  # noqa: ARG002 - it has what a result has
        """Raise Unsupported: a plan has no files."""
        _refuse()


def _refuse(*_: Any, **__: Any) -> Never:
    raise Unsupported(
        "plan_without_model",
        'The mode "recommend" decides everything and writes no model.',
        "Quantize with the plan's recipe: quantize(model, calibration_data, recipe=plan.recipe).",
    )
