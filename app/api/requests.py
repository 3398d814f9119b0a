"""Bodies of requests."""

from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints

from app.webhooks.outbox import ENDS, EventType
from app.webhooks.signing import SECRET_PATTERN
from zeropoint.schema.recipe import Recipe
from zeropoint.schema.sweep import FEWEST_RECIPES, MOST_RECIPES

UNSEEN = r"\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
"""Characters (inside of a regular expression's brackets) that hide, or that change how others are shown: controls,
directions, spaces without width. The two joiners stay: some scripts and emoji are written with them."""
SEEN_PATTERN = rf"^[^{UNSEEN}]*$"

Tag = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=SEEN_PATTERN)]
UPLOAD_PATTERN = rf"^([a-z]{{3}}_[0-9a-f]+|[^{UNSEEN}]+@([1-9][0-9]{{0,8}}|latest))$"
"""An id, or a name with a version."""
UploadReference = Annotated[str, StringConstraints(max_length=300, pattern=UPLOAD_PATTERN)]
DELIVERY_PATTERN = r"^dlv_[0-9a-f]+$"
WORD_PATTERN = r"^[!-~]+$"
"""Of names in addresses, and of keys: characters that no database and no header chokes on."""
NUMBER_PATTERN = r"^[0-9]{1,18}$"
"""Of a header that is a number of bytes."""

UPLOADS: dict[str, JsonValue] = {
    "model": "mdl_18eac0a55b890c749d9cbefae38aafa9",
    "dataset": "dts_18eac1537b5318f290446db1d52bbf73",
}
_RECIPE: dict[str, JsonValue] = {"exclude": ["head"], "validation": {"on_failure": "warn", "min_sqnr_db": 30}}
EXAMPLES: list[JsonValue] = [
    {**UPLOADS, "preset": "int8-static"},
    {**UPLOADS, "recipe": _RECIPE, "device": "cpu", "tags": ["nightly"]},
]


WebhookUrl = Annotated[str, StringConstraints(min_length=1, max_length=2048, pattern=SEEN_PATTERN)]
WebhookEvents = Annotated[tuple[EventType, ...], Field(min_length=1, max_length=len(get_args(EventType)))]


class JobWebhookRequest(BaseModel):
    """Where the events of this job are sent, signed with a secret of yours."""

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, extra="forbid")

    url: WebhookUrl
    """Where events are sent by POST: https, at a public address."""
    secret: Annotated[str, StringConstraints(max_length=96, pattern=SECRET_PATTERN)]
    """What signs them: whsec_ and 24 to 64 bytes in base64."""
    events: WebhookEvents = ENDS
    """Which types of events are sent."""


class LimitsRequest(BaseModel):
    """Time limits below the service's own; a higher value is lowered to the service's limit."""

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, extra="forbid")

    pending_seconds: Annotated[int | None, Field(ge=1, lt=2**31)] = None
    running_seconds: Annotated[int | None, Field(ge=1, lt=2**31)] = None


class RunRequest(BaseModel):
    """The fields that requests for jobs and for sweeps share."""

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, extra="forbid")

    model: UploadReference
    dataset: UploadReference | None = None
    evaluation_dataset: UploadReference | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    tags: Annotated[tuple[Tag, ...], Field(max_length=32)] = ()
    priority: Annotated[int, Field(ge=0, le=9, description="Among the jobs of a project, 9 runs first.")] = 0
    owner: Annotated[str, StringConstraints(max_length=64, pattern=SEEN_PATTERN)] = ""
    limits: LimitsRequest = LimitsRequest()
    webhook: JobWebhookRequest | None = None
    """Where its events are sent; null: to the project's webhooks alone."""


class ChangeRequest(BaseModel):
    """What is changed of a job or sweep; what is left out stays."""

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, extra="forbid")

    tags: Annotated[tuple[Tag, ...] | None, Field(max_length=32)] = None
    """Words to find it by, in place of those that it has; null: they stay."""
    priority: Annotated[int | None, Field(ge=0, le=9)] = None
    """Among a project's jobs, 9 runs first; it can be changed while it is queued. Null: it stays."""


class JobRequest(RunRequest):
    """One recipe, or the name of a preset, on one model."""

    model_config = ConfigDict(
        use_attribute_docstrings=True, frozen=True, extra="forbid", json_schema_extra={"examples": EXAMPLES}
    )

    recipe: Recipe | None = None
    preset: Annotated[str, StringConstraints(max_length=64)] | None = None


SWEEP_RECIPES: list[JsonValue] = [
    {"preset": "int8-static"},
    {"name": "mse", "recipe": {"activations": {"observer": {"kind": "mse"}}}},
]
SWEEP_EXAMPLES: list[JsonValue] = [{**UPLOADS, "recipes": SWEEP_RECIPES}]


class SweepRecipeRequest(BaseModel):
    """One recipe, or the name of a preset; `name` is what the table calls it."""

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, extra="forbid")

    recipe: Recipe | None = None
    preset: Annotated[str, StringConstraints(max_length=64)] | None = None
    name: Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=SEEN_PATTERN)] | None = None


class SweepRequest(RunRequest):
    """Several recipes on one model, calibrated once."""

    model_config = ConfigDict(
        use_attribute_docstrings=True, frozen=True, extra="forbid", json_schema_extra={"examples": SWEEP_EXAMPLES}
    )

    dataset: UploadReference
    recipes: Annotated[tuple[SweepRecipeRequest, ...], Field(min_length=FEWEST_RECIPES, max_length=MOST_RECIPES)]
    latency: Annotated[bool, Field(description="Also measure the latency in onnxruntime; needs a program (.pt2).")] = (
        False
    )
