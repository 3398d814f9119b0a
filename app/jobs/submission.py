"""What a caller asks for when a job is submitted, and the row that it becomes once it is admitted."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Literal

from sqlalchemy.orm import Session

from app.catalog import repository as catalog
from app.catalog.models import Dataset, Model
from app.catalog.service import no_dataset, no_model
from app.database import new_id, now
from app.errors import Fault, Invalid
from app.jobs.admission import check_dataset, check_recipe
from app.jobs.models import Job, JobTag
from app.jobs.queries import live_devices
from app.jobs.status import JobState
from quantization.recipe import Recipe


@dataclass(frozen=True)
class Submission:
    """One recipe on one model, with ids of uploads; `priority` 9 runs first, 0 is usual."""

    model: str
    recipe: Recipe
    dataset: str | None = None
    evaluation_dataset: str | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    tags: tuple[str, ...] = ()
    priority: int = 0
    idempotency_key: str | None = None

    @property
    def sha256(self) -> str:
        """The digest of everything but the key: equal requests have equal digests."""
        content = asdict(replace(self, idempotency_key=None)) | {"recipe": self.recipe.model_dump(mode="json")}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def accept(session: Session, submission: Submission) -> Job:
    """Return the row of a job, once everything holds that it needs. Raises Invalid, NotFound."""
    model = catalog.hold(session, Model, submission.model) or no_model(submission.model)
    check_recipe(submission.recipe, model, has_dataset=submission.dataset is not None)
    for pointer, dataset_id in (
        ("/dataset", submission.dataset),
        ("/evaluation_dataset", submission.evaluation_dataset),
    ):
        if dataset_id is not None:
            dataset = catalog.hold(session, Dataset, dataset_id) or no_dataset(dataset_id)
            check_dataset(model, dataset, pointer)
    return Job(
        id=new_id("job"),
        state=JobState.QUEUED,
        model_id=model.id,
        dataset_id=submission.dataset,
        evaluation_dataset_id=submission.evaluation_dataset,
        recipe=submission.recipe.model_dump(mode="json"),
        device=_device(session, submission.device),
        priority=submission.priority,
        idempotency_key=submission.idempotency_key,
        request_sha256=submission.sha256,
        created_at=now(),
        tag_rows=[JobTag(tag=tag) for tag in sorted(set(submission.tags))],
    )


def _device(session: Session, wanted: str) -> str:
    live = live_devices(session)
    if wanted == "auto":
        return "cuda" if "cuda" in live else "cpu"
    if wanted == "cuda" and "cuda" not in live:
        raise Invalid(
            "no_such_worker",
            "No worker with a CUDA device has been seen in the last 30 seconds.",
            "Start one, or ask for device auto or cpu.",
            [Fault("/device", "no live worker has cuda")],
        )
    return wanted
