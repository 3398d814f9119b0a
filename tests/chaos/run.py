"""One chaos run: submit, cancel and kill for a while; then let what was promised come to its end, and count."""

import time
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from app.database import create_engine_for
from app.jobs.models import Job
from app.jobs.status import LIVE
from app.storage import open_storage
from tests.chaos.counting import Counts, count
from tests.chaos.killer import Killer
from tests.chaos.program import Kind
from tests.chaos.service import Service, service
from tests.chaos.submitter import Submitter

CALM_SECONDS = 1.5


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
    settle_seconds: float = 120.0
    long_share: float = 0.06
    real_jobs: int = 2
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


def run(plan: Plan, model: Path, folder: Path) -> Outcome:
    """Start a service in a folder, batter it, and say what became of the jobs."""
    with ExitStack() as stack:
        seconds = {"LEASE": plan.lease_seconds, "RECONCILE": plan.reconcile_seconds, "WORKER_STOP": 2}
        battered = stack.enter_context(service(plan.database, folder, seconds, plan.mutant))
        battered.start()
        battered.wait_until_ready()
        submitter = Submitter(battered.address, plan.seed, plan.lease_seconds, plan.long_share)
        stack.enter_context(closing(submitter))
        submitter.upload(model)
        with submitter, Killer(battered, plan.seed, plan.targets, plan.pause_seconds) as killer:
            time.sleep(plan.seconds)
        return _outcome(plan, battered, submitter, killer)


def _outcome(plan: Plan, battered: Service, submitter: Submitter, killer: Killer) -> Outcome:
    began = time.monotonic()
    for _ in range(plan.real_jobs):
        submitter.submit(Kind.REAL, 0)
    engine = create_engine_for(battered.settings)
    _settle(engine, plan.idle_seconds, began + plan.settle_seconds)
    settled_after = time.monotonic() - began
    with Session(engine) as session:
        counts = count(session, open_storage(battered.settings.storage_url), submitter.promises)
    engine.dispose()
    fallen = {part.name: part.fallen for part in battered.parts.values() if part.fallen}
    answers = dict(sorted(submitter.answers.items()))
    orphans = battered.orphans()
    return Outcome(plan, counts, dict(sorted(killer.kills.items())), fallen, answers, orphans, settled_after)


def _settle(engine: Engine, idle_seconds: float, latest: float) -> None:
    """Wait until every job has ended and for a moment nothing happens, or nothing happens for long."""
    seen, since, patience = None, time.monotonic(), idle_seconds
    while time.monotonic() < min(since + patience, latest):
        with Session(engine) as session:
            happened = session.execute(select(func.sum(Job.events), func.sum(Job.done), func.sum(Job.token))).one()
            live = session.scalar(select(func.count()).where(Job.state.in_(LIVE)))
        patience = idle_seconds if live else CALM_SECONDS
        if happened != seen:
            seen, since = happened, time.monotonic()
        time.sleep(0.2)
