"""Lists of jobs, whatever they are filtered by, read an index in its order."""

import itertools
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Engine, event
from sqlalchemy.orm import Session

from app.accounts.caller import ANYONE, called_by
from app.accounts.scope import create_scoped_sessions
from app.jobs.kinds import JobKind
from app.jobs.lists import Interval, JobFilter, page_of
from app.jobs.status import JobState

WISHES: dict[str, Any] = {
    "state": JobState.FAILED,
    "tag": "nightly",
    "model_id": "mdl_1",
    "owner": "vision",
    "code": "killed",
    "verdict": "failed",
}
COLUMNS = {"code": "error_code"}
MOMENT = datetime(2026, 1, 1, tzinfo=UTC)
RANGES: list[dict[str, Any]] = [
    {},
    {"created": Interval(MOMENT, MOMENT)},
    {"created": Interval(first=MOMENT), "finished": Interval(end=MOMENT)},
    {"finished": Interval(MOMENT, MOMENT), "sqnr_db": (10.0, 20.0)},
]
FILTERS = [
    {name: WISHES[name] for name in names}
    for count in range(len(WISHES) + 1)
    for names in itertools.combinations(WISHES, count)
]


def plan_of(engine: Engine, session: Session, chosen: JobFilter, before: str | None) -> list[str]:
    """Return the lines of SQLite's plan for a list."""
    statements: list[tuple[str, Any]] = []

    def note(_: object, __: object, statement: str, parameters: Any, *___: object) -> None:
        statements.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    page_of(session, JobKind.QUANTIZE, chosen, before, 20)
    event.remove(engine, "before_cursor_execute", note)
    statement, parameters = next(one for one in statements if "jobs.kind" in one[0])
    plan = session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
    return [row[-1] for row in plan]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("before", [None, "job_5"])
@pytest.mark.parametrize("ranges", RANGES, ids=lambda ranges: "+".join(ranges) or "any")
def test_a_list_reads_an_index_in_its_order(engine: Engine, ranges: dict[str, Any], before: str | None) -> None:
    with create_scoped_sessions(engine)() as session, called_by(ANYONE):
        for wishes in FILTERS:
            check(wishes, plan_of(engine, session, JobFilter(**wishes, **ranges), before), alone=not ranges)


def check(wishes: dict[str, Any], plan: list[str], *, alone: bool) -> None:
    found, rows = plan[1 : plan.index("SCAN anon_1")], plan[plan.index("SCAN anon_1") :]
    assert plan[0] == "MATERIALIZE anon_1"
    assert rows[1] == "SEARCH jobs USING INDEX sqlite_autoindex_jobs_1 (id=?)"  # of those on the page alone
    # Of a job with a tag, its own row says whose it is.
    looked_up = found[:1] if list(wishes) == ["tag"] and alone else found
    assert all("COVERING INDEX" in line for line in looked_up if line.startswith("SEARCH")), plan
    assert not [line for line in found if line.startswith("SCAN") or "TEMP B-TREE" in line], plan
    named = [f"{COLUMNS.get(name, name)}=?" for name in wishes if name != "tag" or alone]
    assert not named or any(name in found[0] for name in named), plan
