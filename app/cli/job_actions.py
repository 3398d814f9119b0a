"""What `zeropoint jobs …` does: an operator sees the jobs of all projects, and changes one in the name of its own."""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice

from sqlalchemy.orm import Session

from app.accounts.caller import Caller, Role, called_by
from app.accounts.scope import create_scoped_sessions
from app.api.bodies import bodies_of
from app.api.schemas import JobBody
from app.api.sweeps import SweepBody
from app.cli.account_actions import ACTOR
from app.database import connected, create_engine_for
from app.errors import Invalid, ServiceError
from app.jobs import queries, service
from app.jobs.kinds import JobKind
from app.jobs.lists import JobFilter
from app.jobs.status import JobState
from app.jobs.submission import MostSeconds
from app.settings import Settings

PAGE = 100


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Run one of these commands and return its exit code."""
    if options.action == "list":
        return _list(options, settings)
    refused = 0
    for job_id in options.ids:
        try:
            with _of_its_project(settings, job_id) as session:
                WORK[options.action](session, settings, job_id)
        except ServiceError as error:
            print(error, file=sys.stderr)
            refused += 1
    return 1 if refused else 0


@contextmanager
def _of_its_project(settings: Settings, job_id: str) -> Iterator[Session]:
    """Yield a session of the project that a job belongs to, for which this command then acts."""
    engine = create_engine_for(settings)
    try:
        with Session(engine) as session:
            project = queries.read_any(session, job_id).project
        with called_by(Caller(project, Role.ADMIN, ACTOR)), create_scoped_sessions(engine)() as session:
            yield session
    finally:
        engine.dispose()


def _list(options: argparse.Namespace, settings: Settings) -> int:
    chosen = JobFilter(state=_state(options.state))
    with connected(settings) as sessions, sessions() as session:
        rows = [row for kind in JobKind for row in islice(_rows(session, kind, chosen, options.project), options.limit)]
        rows.sort(key=lambda row: row.created_at, reverse=True)
        for row in rows[: options.limit]:
            ended = row.verdict or (row.error or {}).get("code") or row.phase or ""
            print(f"{row.id}  {row.project:<20} {row.state:<10} {ended:<20} {row.created_at:%Y-%m-%d %H:%M}")
    return 0


def _rows(session: Session, kind: JobKind, chosen: JobFilter, project: str | None) -> Iterator[queries.JobRow]:
    before: str | None = None
    while rows := queries.page(session, kind, chosen, before, PAGE):
        yield from (row for row in rows if project in (None, row.project))
        before = rows[-1].id


def _state(word: str | None) -> JobState | None:
    if word is None or word in list(JobState):
        return None if word is None else JobState(word)
    raise Invalid("request_invalid", f"There is no state {word[:64]}.", f"There are {', '.join(JobState)}.")


def _show(session: Session, _: Settings, job_id: str) -> None:
    job = queries.read_any(session, job_id)
    if job.kind == JobKind.SWEEP:
        print(bodies_of(SweepBody, session, [queries.read_sweep(session, job_id)])[0].model_dump_json(indent=2))
    else:
        print(bodies_of(JobBody, session, [queries.read(session, job_id)])[0].model_dump_json(indent=2))


def _cancel(session: Session, _: Settings, job_id: str) -> None:
    print(f"{job_id} is {service.request_cancel(session, job_id).state}")


def _retry(session: Session, settings: Settings, job_id: str) -> None:
    sweep = queries.read_any(session, job_id).kind == JobKind.SWEEP
    job = queries.read_sweep(session, job_id) if sweep else queries.read(session, job_id)
    again = service.retry(job, None, None)
    most = MostSeconds(settings.job_pending_seconds, settings.job_seconds)
    print(f"{service.submit(session, again, most).id} repeats {job_id}")


def _delete(session: Session, _: Settings, job_id: str) -> None:
    service.forget(session, job_id)
    print(f"{job_id} is deleted")


WORK: dict[str, Callable[[Session, Settings, str], None]] = {
    "show": _show,
    "cancel": _cancel,
    "retry": _retry,
    "delete": _delete,
}
