"""A submitted job: what the caller asks for, and the row that it becomes once it is admitted."""

import hashlib
import json
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Literal, Self, cast

from sqlalchemy.orm import Session

from app import traces
from app.accounts.caller import DEFAULT_PROJECT, project_of_caller
from app.catalog.models import Dataset, Model
from app.catalog.service import DATASETS, MODELS
from app.database import clock, new_id
from app.errors import Fault, Invalid
from app.jobs.admission import check_dataset, check_metric, check_recipes, source_of
from app.jobs.models import Job, JobTag
from app.jobs.status import JobState
from app.jobs.work import Work, work_of
from app.jobs.workers import live_devices

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class Submission:
    """Work on a model, uploads by id or `name@version`; of a project's jobs `priority` 9 runs first, 0 is usual."""

    model: str
    work: Work
    dataset: str | None = None
    evaluation_dataset: str | None = None
    device: Device = "auto"
    tags: tuple[str, ...] = ()
    priority: int = 0
    owner: str = ""
    pending_seconds: int | None = None
    running_seconds: int | None = None
    idempotency_key: str | None = None
    request_id: str | None = None
    webhook: dict[str, Any] | None = None
    """`url`, `secret` and `events` of the webhook that the job brings along."""
    retry_of: str | None = None

    @property
    def sha256(self) -> str:
        """Return the digest of what is asked for: equal requests have equal digests, in every version."""
        content = asdict(self) | {"idempotency_key": None, "recipe": self.work.recipe.model_dump(mode="json")}
        del content["work"], content["request_id"]
        if self.webhook is None:  # requests from before there were webhooks keep their digests
            del content["webhook"]
        if self.retry_of is None:  # requests had no such field once
            del content["retry_of"]
        content |= self.work.to_json()
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def key_digest(self) -> str | None:
        """Return the digest of project, owner and key, under which the job is found again; None without a key."""
        if self.idempotency_key is None:
            return None
        # Jobs of the default project have had their digests since before there were projects.
        project = [name] if (name := project_of_caller()) != DEFAULT_PROJECT else []
        return hashlib.sha256(json.dumps([*project, self.owner, self.idempotency_key]).encode()).hexdigest()


@dataclass(frozen=True)
class MostSeconds:
    """The longest that a job may wait and run; a request for more is lowered to this."""

    pending: int
    running: int


@dataclass(frozen=True)
class Needed:
    """The ids of the uploads that a submission names."""

    model: str
    dataset: str | None
    evaluation_dataset: str | None

    @classmethod
    def of(cls, session: Session, submission: Submission) -> Self:
        """Look up what is named by a version. Raises NotFound."""
        datasets = (
            named and DATASETS.id_of(session, named) for named in (submission.dataset, submission.evaluation_dataset)
        )
        return cls(MODELS.id_of(session, submission.model), *datasets)


@dataclass(frozen=True)
class Admitted:
    """A submission that passed its checks: the work with every default written out, and the device it waits for."""

    submission: Submission
    needed: Needed
    work: Work
    device: str


def admit(session: Session, submission: Submission) -> Admitted:
    """Check all that a job needs; uploads never change, so nothing is locked meanwhile. Raises Invalid, NotFound."""
    needed = Needed.of(session, submission)
    model = MODELS.read_whole(session, needed.model)
    _check(session, submission.work, needed, model)
    work = submission.work.completed(source_of(model), {layer["name"] for layer in model.layers})
    return Admitted(submission, needed, work, _device(session, submission.device))


def same_again(job: Job, idempotency_key: str | None, request_id: str | None) -> Submission:
    """Return the request that made a job, to be submitted once more."""
    return Submission(
        model=job.model_id,
        work=work_of(job),
        dataset=job.dataset_id,
        evaluation_dataset=job.evaluation_dataset_id,
        device=cast(Device, job.wanted_device),
        tags=tuple(job.tags),
        priority=job.priority,
        owner=job.owner,
        pending_seconds=job.pending_seconds,
        running_seconds=job.running_seconds,
        idempotency_key=idempotency_key,
        request_id=request_id,
        webhook=job.webhook,
        retry_of=job.id,
    )


def new_job(session: Session, admitted: Admitted, most: MostSeconds) -> Job:
    """Return the row of a job, within the caller's transaction, which holds its uploads. Raises NotFound."""
    submission, needed = admitted.submission, admitted.needed
    MODELS.hold(session, needed.model)
    for dataset in filter(None, (needed.dataset, needed.evaluation_dataset)):
        DATASETS.hold(session, dataset)
    created_at = clock(session)
    pending = min(submission.pending_seconds or most.pending, most.pending)
    return Job(
        **admitted.work.columns(),
        id=new_id(submission.work.id_prefix, created_at),
        state=JobState.QUEUED,
        model_id=needed.model,
        dataset_id=needed.dataset,
        evaluation_dataset_id=needed.evaluation_dataset,
        owner=submission.owner,
        wanted_device=submission.device,
        device=admitted.device,
        priority=submission.priority,
        pending_seconds=pending,
        pending_until=created_at + timedelta(seconds=pending),
        running_seconds=min(submission.running_seconds or most.running, most.running),
        idempotency_key=submission.key_digest,
        request_sha256=submission.sha256,
        request_id=submission.request_id,
        trace=traces.traceparent(),
        webhook=submission.webhook,
        retry_of=submission.retry_of,
        created_at=created_at,
        queued_at=created_at,
        tag_rows=[JobTag(tag=tag) for tag in sorted(set(submission.tags))],
    )


def _check(session: Session, work: Work, needed: Needed, model: Model) -> None:
    work.check(model)
    check_recipes(work.recipes, model, has_dataset=needed.dataset is not None)
    _fitting(session, model, needed.dataset, "/dataset")
    evaluation = _fitting(session, model, needed.evaluation_dataset, "/evaluation_dataset")
    for pointer, recipe in work.recipes.items():
        check_metric(recipe, evaluation, pointer)


def _fitting(session: Session, model: Model, dataset_id: str | None, pointer: str) -> Dataset | None:
    """Return a dataset that fits the model. Raises Invalid, NotFound."""
    if dataset_id is None:
        return None
    dataset = DATASETS.read_whole(session, dataset_id)
    check_dataset(model, dataset, pointer)
    return dataset


def _device(session: Session, requested: str) -> str:
    live = live_devices(session)
    if requested == "auto":
        return "cuda" if "cuda" in live else "cpu"
    if requested == "cuda" and "cuda" not in live:
        raise Invalid(
            "no_such_worker",
            "No worker with a CUDA device has been seen in the last 30 seconds.",
            "Start one, or ask for device auto or cpu.",
            [Fault("/device", "no live worker has cuda")],
        )
    return requested
