"""Tables of jobs: the job, its tags, attempts, history and artifacts; what survives an attempt; who works; counts."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Float, ForeignKey, Index, Integer, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.accounts.scope import Owned
from app.database import Base, UtcDateTime
from app.jobs.status import JobState

WORK = "work"
"""The columns that hold what a job does. They can be large, and are read only where they are asked for."""
RESULTS = ("verdict", "error_code", "sqnr_db", "finished_at")
"""What became of a job, as lists are filtered by it."""


class Job(Owned, Base):
    """One recipe on one model, or a sweep of several.

    A model or dataset may be deleted once the job has ended: no foreign key to them.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        Index("ix_jobs_state_id", "state", "id"),
        # Lists: newest first, with what else may be asked for at the end, so that rows are read only to be shown.
        Index("ix_jobs_of_project", "project", "kind", "id", "state", "owner", "model_id", *RESULTS),
        Index("ix_jobs_of_owner", "project", "kind", "owner", "id", "state", "model_id", *RESULTS),
        Index("ix_jobs_of_model", "project", "kind", "model_id", "id", "state", "owner", *RESULTS),
        Index("ix_jobs_in_state", "project", "kind", "state", "id", "owner", "model_id", *RESULTS),
        Index(
            "ix_jobs_with_code",
            "project",
            "kind",
            "error_code",
            "id",
            "state",
            "owner",
            "model_id",
            "verdict",
            *RESULTS[2:],
        ),
        Index("ix_jobs_of_verdict", "project", "kind", "verdict", "id", "state", "owner", "model_id", *RESULTS[1:]),
        Index("ix_jobs_model_id", "model_id"),
        Index("ix_jobs_state_lease_until", "state", "lease_until"),
        UniqueConstraint("idempotency_key"),
    )

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    state: Mapped[str] = mapped_column(String(16))
    phase: Mapped[str | None] = mapped_column(String(16))
    verdict: Mapped[str | None] = mapped_column(String(16))
    done: Mapped[int] = mapped_column(BigInteger, default=0)
    total: Mapped[int] = mapped_column(BigInteger, default=0)
    eta_seconds: Mapped[float | None] = mapped_column(Float)
    error: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    error_code: Mapped[str | None] = mapped_column(String(64))
    """The error's code, to be searched for."""
    sqnr_db: Mapped[float | None] = mapped_column(Float)
    """The report's SQNR of the whole model; infinity where the result is exact, None where nothing was measured."""
    model_id: Mapped[str] = mapped_column(String(64))
    dataset_id: Mapped[str | None] = mapped_column(String(64))
    evaluation_dataset_id: Mapped[str | None] = mapped_column(String(64))
    recipe: Mapped[dict[str, Any]] = mapped_column(JSON, deferred=True, deferred_group=WORK)
    sweep: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True), deferred=True, deferred_group=WORK)
    """The `recipes` (entries as JSON) and `latency` of a sweep, whose first recipe is in `recipe`; see `work`."""
    owner: Mapped[str] = mapped_column(String(64))
    wanted_device: Mapped[str] = mapped_column(String(8))
    device: Mapped[str] = mapped_column(String(8))
    priority: Mapped[int] = mapped_column(Integer, default=0)
    pending_seconds: Mapped[int] = mapped_column(Integer)
    running_seconds: Mapped[int] = mapped_column(Integer)
    pending_until: Mapped[datetime] = mapped_column(UtcDateTime)
    queued_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """Since when it waits, each time; after a pause before another attempt, since its end."""
    token: Mapped[int] = mapped_column(Integer, default=0)
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    fruitless: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    """Attempts since the last one that kept a checkpoint."""
    worker: Mapped[str | None] = mapped_column(String(255))
    lease_until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    not_before: Mapped[datetime | None] = mapped_column(UtcDateTime)
    events: Mapped[int] = mapped_column(Integer, default=0)
    idempotency_key: Mapped[str | None] = mapped_column(String(255))
    """The digest of project, owner and key: each owner has keys of their own."""
    request_sha256: Mapped[str] = mapped_column(String(64))
    request_id: Mapped[str | None] = mapped_column(String(64))
    trace: Mapped[str | None] = mapped_column(String(64))
    """Where in a trace the request stands that submitted the job (`traceparent`)."""
    webhook: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    """Where its events are sent: `url`, `secret` and `events` of the webhook that is made of it."""
    retry_of: Mapped[str | None] = mapped_column(String(64))
    """The job whose request was submitted again; it may have been deleted since."""
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    tag_rows: Mapped[list["JobTag"]] = relationship(lazy="selectin", order_by="JobTag.tag")

    @property
    def tags(self) -> list[str]:
        """Return the words that the user gave the job."""
        return [row.tag for row in self.tag_rows]

    @property
    def limits(self) -> dict[str, int]:
        """Return how long the job may wait, each time it is queued, and how long one attempt may run."""
        return {"pending_seconds": self.pending_seconds, "running_seconds": self.running_seconds}

    @property
    def progress(self) -> dict[str, float | None]:
        """Return the progress of the current phase; a fraction of None means that it is not known."""
        fraction = self.done / self.total if self.total else None
        if self.state == JobState.SUCCEEDED:
            fraction = 1.0
        return {"done": self.done, "total": self.total, "fraction": fraction, "eta_seconds": self.eta_seconds}


class JobTag(Base):
    """A word that the user gave a job."""

    __tablename__ = "job_tags"
    __table_args__ = (Index("ix_job_tags_tag", "tag", "job_id"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    tag: Mapped[str] = mapped_column(String(64), primary_key=True)


class Turn(Base):
    """When a job of a project was last claimed: a free slot goes to the project that waited longest."""

    __tablename__ = "turns"

    project: Mapped[str] = mapped_column(String(64), primary_key=True)
    served_at: Mapped[datetime] = mapped_column(UtcDateTime)


class Attempt(Base):
    """One run of a job by one worker; `outcome` is null while it may still write."""

    __tablename__ = "attempts"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    token: Mapped[int] = mapped_column(Integer, primary_key=True)
    number: Mapped[int] = mapped_column(Integer)
    worker: Mapped[str] = mapped_column(String(255))
    device: Mapped[str] = mapped_column(String(8))
    started_at: Mapped[datetime] = mapped_column(UtcDateTime)
    ended_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    outcome: Mapped[str | None] = mapped_column(String(32))
    peak_memory_bytes: Mapped[int | None] = mapped_column(BigInteger)


class Checkpoint(Base):
    """A blob from which another attempt can continue; `key` stands for model, data, recipe, device and versions."""

    __tablename__ = "checkpoints"

    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), index=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)


class JobEvent(Owned, Base):
    """One line of a job's history; append only. `position` is its place in what is published, once it has one."""

    __tablename__ = "job_events"
    __table_args__ = (
        Index("ix_job_events_position", "position", unique=True),
        Index("ix_job_events_of_project", "project", "position"),
    )

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(Integer, primary_key=True)
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    kind: Mapped[str] = mapped_column(String(32))
    data: Mapped[dict[str, Any]] = mapped_column(JSON)
    position: Mapped[int | None] = mapped_column(BigInteger)


class LastPosition(Base):
    """The last position that an event was given: one row, which stays when events are deleted with their jobs."""

    __tablename__ = "last_position"

    name: Mapped[str] = mapped_column(String(16), primary_key=True)
    position: Mapped[int] = mapped_column(BigInteger)


class Artifact(Base):
    """A file that a job produced, and the attempt that produced it."""

    __tablename__ = "artifacts"
    __table_args__ = (UniqueConstraint("job_id", "name"),)

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    attempt: Mapped[int] = mapped_column(Integer)
    name: Mapped[str] = mapped_column(String(255))
    kind: Mapped[str] = mapped_column(String(32))
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64), index=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class Tally(Base):
    """Something that was counted; see `app.jobs.tallies`. `labels` is a JSON list, `bucket` one of a histogram's."""

    __tablename__ = "tallies"

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    metric: Mapped[str] = mapped_column(String(64))
    labels: Mapped[str] = mapped_column(String(255))
    bucket: Mapped[int] = mapped_column(Integer)
    count: Mapped[int] = mapped_column(BigInteger)
    total: Mapped[float] = mapped_column(Float)


class MlflowRun(Base):
    """A job that MLflow has to hear of; the row goes once MLflow knows how the job ended. See `app.jobs.mlflow_runs`.

    No foreign key to the job: its run is closed too when the job is deleted first.
    """

    __tablename__ = "mlflow_runs"
    __table_args__ = (Index("ix_mlflow_runs_due_at", "due_at"),)

    job_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    project: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(16))
    """The job's state when the row was last written; the job's own row, while there is one, knows better."""
    opened: Mapped[bool] = mapped_column(default=False)
    """Whether MLflow has the run."""
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    """Counted before each attempt to tell MLflow, so that it tells attempts apart."""
    noted_at: Mapped[datetime] = mapped_column(UtcDateTime)
    due_at: Mapped[datetime] = mapped_column(UtcDateTime)
    """When MLflow hears of it next; while it does, when that lease ends."""
    last_error: Mapped[str | None] = mapped_column(String(512))


class Worker(Base):
    """A worker process, as it last announced itself."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(String(255), primary_key=True)
    device: Mapped[str] = mapped_column(String(8))
    version: Mapped[str] = mapped_column(String(32))
    sandbox: Mapped[dict[str, bool]] = mapped_column(JSON, server_default="{}")
    started_at: Mapped[datetime] = mapped_column(UtcDateTime)
    seen_at: Mapped[datetime] = mapped_column(UtcDateTime)
