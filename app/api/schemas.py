"""Bodies of responses."""

from datetime import datetime
from math import inf
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, computed_field

from app.api.addresses import address
from app.jobs.queries import WaitingFor
from app.jobs.status import TERMINAL, JobState
from app.jobs.taxonomy import FailureClass, category_of
from zeropoint.schema.job import Phase
from zeropoint.schema.recipe import Recipe
from zeropoint.schema.report import Verdict


class Body(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, from_attributes=True)


class ExtentBody(Body):
    """A dynamic dimension; max null is unbounded."""

    min: int
    max: int | None


class TensorBody(Body):
    name: str
    dtype: str
    shape: list[int | ExtentBody]


class InputBody(TensorBody):
    """A tensor that a model takes as input; the model runs without an optional one."""

    optional: bool = False


class LayerBody(Body):
    name: str
    type: str
    weight_shape: list[int] | None
    parameters: int


class ModelWarningBody(Body):
    """Something about a model that may make its results useless; `layers` are paths of modules, or empty."""

    code: Literal["no_layers", "torch_release", "training_mode"]
    detail: str
    remedy: str
    layers: list[str]


class LeftOutBody(Body):
    """A file, or a folder ending in "/", of an uploaded folder that was neither read nor kept, and why."""

    name: str
    reason: str


class ModelSummaryBody(Body):
    """A model in a list; reading it shows its inputs and layers too."""

    id: str
    name: str
    version: int
    format: Literal["pt2", "huggingface", "safetensors"]
    bytes: int
    sha256: str
    created_at: datetime
    parameters: int


class ModelBody(ModelSummaryBody):
    inputs: list[InputBody]
    layers: list[LayerBody]
    warnings: list[ModelWarningBody]
    left_out: list[LeftOutBody]


class DatasetSummaryBody(Body):
    """A dataset in a list; reading it shows its tensors too."""

    id: str
    name: str
    version: int
    bytes: int
    sha256: str
    created_at: datetime
    samples: int


class DatasetBody(DatasetSummaryBody):
    tensors: list[TensorBody]


class ModelPage(Body):
    items: list[ModelSummaryBody]
    next_cursor: str | None


class DatasetPage(Body):
    items: list[DatasetSummaryBody]
    next_cursor: str | None


class ProgressBody(Body):
    """Progress of the current phase; total 0 and fraction null mean that it is not known."""

    done: int
    total: int
    fraction: float | None
    eta_seconds: float | None


class FailureBody(Body):
    code: str
    title: str
    detail: str
    remedy: str
    phase: Phase | None

    @computed_field
    def category(self) -> FailureClass:
        """Return the class of the cause: the request, a missing feature, a limit, or the service itself."""
        return category_of(self.code)


class LimitsBody(Body):
    """How long the job may wait in the queue, each time it is queued, and how long one attempt may run."""

    pending_seconds: int
    running_seconds: int


class LinksBody(Body):
    self: str
    events: str
    attempts: str
    report: str
    artifacts: str


class RunBody(Body):
    """The fields that jobs and sweeps share."""

    id: str
    state: Annotated[JobState, Field(description=f"Final: {', '.join(sorted(TERMINAL))}.")]
    phase: Phase | None
    progress: ProgressBody
    error: FailureBody | None
    model: Annotated[str, Field(validation_alias="model_id")]
    dataset: Annotated[str | None, Field(validation_alias="dataset_id")]
    evaluation_dataset: Annotated[str | None, Field(validation_alias="evaluation_dataset_id")]
    device: Literal["cpu", "cuda"]
    attempts: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    tags: list[str]
    priority: int
    owner: str
    limits: LimitsBody
    request_id: Annotated[str | None, Field(description="Of the request that submitted it; log lines have it.")]
    retry_of: str | None
    """The id of the job whose request was submitted again; null: it was none."""
    waiting_for: WaitingFor | None = None


class JobSummaryBody(RunBody):
    """A job in a list; reading it shows its recipe too."""

    verdict: Verdict | None
    sqnr_db: Annotated[float | None, BeforeValidator(lambda value: None if value == inf else value)]
    """The report's SQNR of the whole model in dB; null: equal, or not measured."""

    @computed_field
    def links(self) -> LinksBody:
        """Return the addresses of what belongs to the job."""
        here = address(f"/v1/jobs/{self.id}")
        names = ("events", "attempts", "report", "artifacts")
        return LinksBody(self=here, **{name: f"{here}/{name}" for name in names})


class JobBody(JobSummaryBody):
    recipe: Recipe


class JobPage(Body):
    items: list[JobSummaryBody]
    next_cursor: str | None


class AttemptBody(Body):
    """One run of a job; `outcome` is null while it goes on.

    A run that its worker released does not count as an attempt: the next run has the same number.
    """

    number: int
    token: int
    worker: str
    device: str
    started_at: datetime
    ended_at: datetime | None
    outcome: str | None
    peak_memory_bytes: int | None


class AttemptPage(Body):
    items: list[AttemptBody]


class EventBody(Body):
    """One line of a job's history."""

    seq: int
    at: datetime
    kind: Literal["state", "phase"]
    data: dict[str, Any]


class EventPage(Body):
    items: list[EventBody]


class ProjectEventBody(EventBody):
    """One line of the history of a job of the project."""

    position: int
    """Its place in the order of all events; they rise, with gaps where other projects' are."""
    job: Annotated[str, Field(validation_alias=AliasChoices("job_id", "job"))]
    """The id of the job, or of the sweep."""


class ProjectEventPage(Body):
    items: list[ProjectEventBody]


class ArtifactBody(Body):
    name: str
    kind: str
    bytes: int
    sha256: str
    url: str


class ArtifactPage(Body):
    items: list[ArtifactBody]
    next_cursor: str | None


class PresetBody(Body):
    name: str
    description: str
    needs_dataset: bool
    recipe: Recipe


class PresetPage(Body):
    items: list[PresetBody]


class FaultBody(Body):
    """One of the errors in a request."""

    pointer: Annotated[str, Field(description="A JSON pointer into the body, or /query/name, /header/name.")]
    detail: str


class Problem(Body):
    """RFC 9457. docs/reference/errors.md lists the codes."""

    type: str
    title: str
    status: int
    code: str
    request_id: str
    detail: str | None = None
    remedy: str | None = None
    errors: list[FaultBody] | None = None
    more_errors: Annotated[int | None, Field(description="How many further errors there are.")] = None


class Liveness(Body):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Readiness(Body):
    """The service can accept jobs and run them."""

    status: Literal["ready"]
    sandbox: dict[str, bool]
    away: dict[str, str] = {}
    """What does not answer and only some need, such as the identity provider, without which keys still hold."""
