"""What the API says and takes of sweeps, as JSON."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, computed_field

from app.api.schemas import UPLOADS, Body, Id, RunBody, RunRequest
from quantization.recipe import Recipe
from quantization.sweep_table import FEWEST_RECIPES, MOST_RECIPES, SweepEntry, SweepRow

RECIPES: list[JsonValue] = [
    {"preset": "int8-static"},
    {"name": "mse", "recipe": {"activations": {"observer": {"kind": "mse"}}}},
]
EXAMPLES: list[JsonValue] = [{**UPLOADS, "recipes": RECIPES}]


class SweepRecipeRequest(BaseModel):
    """One recipe, or the name of a preset; `name` is what the table calls it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: Recipe | None = None
    preset: Annotated[str, StringConstraints(max_length=64)] | None = None
    name: Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]+$")] | None = None


class SweepRequest(RunRequest):
    """Several recipes on one model, calibrated once."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra={"examples": EXAMPLES})

    dataset: Id
    recipes: Annotated[tuple[SweepRecipeRequest, ...], Field(min_length=FEWEST_RECIPES, max_length=MOST_RECIPES)]
    latency: Annotated[bool, Field(description="Measure a call in onnxruntime too; of a program (.pt2) alone.")] = False


class SweepLinksBody(Body):
    self: str
    events: str
    attempts: str
    artifacts: str


class SweepBody(RunBody):
    recipes: list[SweepEntry]
    latency: bool
    rows: Annotated[list[SweepRow] | None, Field(description="Null until it has succeeded, and in lists.")] = None
    pareto: Annotated[list[int] | None, Field(description="Positions of the rows that no other row beats.")] = None

    @computed_field
    def links(self) -> SweepLinksBody:
        """Where the rest of the sweep is: its history and files are under the addresses of a job's."""
        below = {name: f"/v1/jobs/{self.id}/{name}" for name in ("events", "attempts", "artifacts")}
        return SweepLinksBody(self=f"/v1/sweeps/{self.id}", **below)


class SweepPage(Body):
    items: list[SweepBody]
    next_cursor: str | None
