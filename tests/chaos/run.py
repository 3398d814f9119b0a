"""One chaos run: submit, cancel and kill for a while; then let what was promised come to its end, and count."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine, func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.database import create_engine_for
from app.jobs.models import Job
from app.jobs.status import LIVE
from app.storage import open_storage
from tests.chaos.counting import Counts, count
from tests.chaos.killer import Killer
from tests.chaos.program import Kind
from tests.chaos.service import Service, service
from tests.chaos.submitter import Promise, Submitter
from tests.s3 import TestBucket

LONGEST_SECONDS = 180.0
LOOK_SECONDS = 3.0
"""Longer than anything takes that is only late."""


@dataclass(frozen=True)
class Plan:
    """What a run is to be like.

    It is over when every job has ended, nothing has happened for `idle_seconds`, or `settle_seconds` have passed since
    the last kill.
    """

    database: str
    seconds: float
    seed: int
    lease_seconds: float = 4.0
    reconcile_seconds: float = 1.0
    targets: tuple[str, ...] = ("postgresql", "redis", "api", "one", "two")
    pause_seconds: tuple[float, float] = (1.5, 4.0)
    """Between two kills."""
    idle_seconds: float = 30.0
    calm_seconds: float = 1.5
    """Without a live job, before it is over."""
    settle_seconds: float = 240.0
    long_share: float = 0.06
    real_jobs: int = 2
    good_jobs: int = 0
    """Both are submitted after the last kill."""
    harm: Callable[[Session, Sequence[Promise]], set[str]] | None = None
    """Which jobs came to harm: killing goes on for longer than `seconds` until one has."""
    mutant: str = ""


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    plan: Plan
    counts: Counts
    kills: dict[str, int]
    fallen: dict[str, int]
    answers: dict[int, int]
    orphans: int
    settled_after: float

    def __str__(self) -> str:
        return (
            f"seed {self.plan.seed}, {self.plan.seconds:.0f} s: {self.counts}; "
            f"kills {sum(self.kills.values())} {self.kills}; ended by themselves {self.fallen}; "
            f"outlived their parents {self.orphans}; answers {self.answers}; "
            f"all had ended {self.settled_after:.0f} s after the last kill"
        )


def run(plan: Plan, model: Path, folder: Path, bucket: TestBucket | None = None) -> Outcome:
    """Start a service in a folder, batter it, and say what became of the jobs."""
    with ExitStack() as stack:
        seconds = {"LEASE": plan.lease_seconds, "RECONCILE": plan.reconcile_seconds, "WORKER_STOP": 2}
        battered = stack.enter_context(service(plan.database, folder, seconds, plan.mutant, bucket=bucket))
        battered.start()
        battered.wait_until_ready()
        submitter = Submitter(battered.address, plan.seed, plan.lease_seconds, plan.long_share)
        stack.enter_context(closing(submitter))
        submitter.upload(model)
        with submitter, Killer(battered, plan.seed, plan.targets, plan.pause_seconds) as killer:
            time.sleep(plan.seconds)
            _wait_for_harm(plan, battered, submitter)
        return _outcome(plan, battered, submitter, killer)


def _wait_for_harm(plan: Plan, battered: Service, submitter: Submitter) -> None:
    """Return when a job that came to harm has still not recovered at the next look, or after long."""
    engine = create_engine_for(battered.settings)
    before: set[str] = set()
    latest = time.monotonic() + LONGEST_SECONDS
    while plan.harm and time.monotonic() < latest:
        with suppress(SQLAlchemyError), Session(engine) as session:  # the database may just be away
            harmed = plan.harm(session, tuple(submitter.promises))
            if before & harmed:
                break
            before = harmed
        time.sleep(LOOK_SECONDS)
    engine.dispose()


def _outcome(plan: Plan, battered: Service, submitter: Submitter, killer: Killer) -> Outcome:
    began = time.monotonic()
    for _ in range(plan.real_jobs):
        submitter.submit(Kind.REAL, 0)
    for _ in range(plan.good_jobs):
        submitter.submit(Kind.GOOD, 100)
    engine = create_engine_for(battered.settings)
    _settle(engine, plan, began + plan.settle_seconds)
    settled_after = time.monotonic() - began
    with Session(engine) as session:
        counts = count(session, open_storage(battered.settings), submitter.promises)
    engine.dispose()
    fallen = {part.name: part.fallen for part in battered.parts.values() if part.fallen}
    answers = dict(sorted(submitter.answers.items()))
    orphans = battered.orphans()
    return Outcome(plan, counts, dict(sorted(killer.kills.items())), fallen, answers, orphans, settled_after)


def _settle(engine: Engine, plan: Plan, latest: float) -> None:
    """Wait until every job has ended and for a moment nothing happens, or nothing happens for long."""
    seen, since, patience = None, time.monotonic(), plan.idle_seconds
    while time.monotonic() < min(since + patience, latest):
        with Session(engine) as session:
            happened = session.execute(select(func.sum(Job.events), func.sum(Job.done), func.sum(Job.token))).one()
            live = session.scalar(select(func.count()).where(Job.state.in_(LIVE)))
        patience = plan.idle_seconds if live else plan.calm_seconds
        if happened != seen:
            seen, since = happened, time.monotonic()
        time.sleep(0.2)
