"""Jobs and sweeps are changed, deleted, submitted again, and found by what became of them."""

from datetime import UTC, datetime, timedelta
from math import inf
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session, sessionmaker

from app.jobs import endings
from app.jobs.endings import Measured, Product
from app.jobs.models import Artifact, Attempt, JobEvent, JobTag
from app.jobs.retention import collect_garbage
from app.settings import Settings
from app.storage import Storage
from tests.app.jobs.test_retention import age
from tests.factories import claim_one
from zeropoint.schema.job import Failure

KILLED = Failure(code="validation_failed", title="t", detail="d", remedy="r")
ENTRIES = [{"preset": "int8-static"}, {"preset": "int8-weight-only"}]


@pytest.fixture(params=["jobs", "sweeps"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def wish(kind: str, model_id: str, dataset_id: str) -> dict[str, Any]:
    what: dict[str, Any] = {"preset": "int8-static"} if kind == "jobs" else {"recipes": ENTRIES}
    return {"model": model_id, "dataset": dataset_id, "tags": ["b", "a"], "priority": 2, "owner": "o", **what}


def submitted(client: httpx.Client, kind: str, wish: dict[str, Any]) -> dict[str, Any]:
    answer = client.post(f"/v1/{kind}", json=wish)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job


def end(session: Session, sqnr_db: float | None = None, products: tuple[Product, ...] = ()) -> None:
    claim = claim_one(session)
    verdict = "passed" if claim.work.kind == "quantize" else None
    assert endings.succeed(session, claim, verdict, products, Measured(sqnr_db=sqnr_db))


def test_tags_change_at_any_time_and_priority_while_it_is_queued(
    client: httpx.Client, session: Session, kind: str, wish: dict[str, Any]
) -> None:
    here = f"/v1/{kind}/{submitted(client, kind, wish)['id']}"
    for change, tags, priority in (
        ({"priority": 9}, ["a", "b"], 9),
        ({"tags": ["z", "a", "z"]}, ["a", "z"], 9),
        ({}, ["a", "z"], 9),
        ({"tags": None, "priority": None}, ["a", "z"], 9),
        ({"tags": [], "priority": 0}, [], 0),
    ):
        answer = client.patch(here, json=change)
        assert (answer.status_code, answer.json()["tags"], answer.json()["priority"]) == (200, tags, priority)
        assert client.get(here).json() == answer.json()
    claim = claim_one(session)
    refused = client.patch(here, json={"tags": ["c"], "priority": 1})
    assert (refused.status_code, refused.json()["code"]) == (409, "job_not_queued")
    assert client.get(here).json()["tags"] == []
    assert client.patch(here, json={"tags": ["running"]}).json()["tags"] == ["running"]
    endings.succeed(session, claim, None, ())
    assert client.patch(here, json={"tags": ["ended"]}).json()["tags"] == ["ended"]
    assert [job["id"] for job in client.get(f"/v1/{kind}", params={"tag": "ended"}).json()["items"]] == [claim.job_id]


@pytest.mark.parametrize("change", [{"tags": [""]}, {"priority": 10}, {"owner": "x"}, {"tags": "a"}, []])
def test_what_can_not_be_changed_so_is_refused(
    client: httpx.Client, kind: str, wish: dict[str, Any], change: Any
) -> None:
    here = f"/v1/{kind}/{submitted(client, kind, wish)['id']}"
    assert client.patch(here, json=change).status_code == 422
    assert client.get(here).json()["tags"] == ["a", "b"]


def test_an_ended_one_is_deleted_with_all_that_belongs_to_it(
    *,
    client: httpx.Client,
    sessions: sessionmaker[Session],
    storage: Storage,
    settings: Settings,
    kind: str,
    wish: dict[str, Any],
) -> None:
    job_id = submitted(client, kind, wish)["id"]
    here = f"/v1/{kind}/{job_id}"
    refused = client.delete(here)
    assert (refused.status_code, refused.json()["code"]) == (409, "job_active")
    assert f"{here}/cancel" in refused.json()["remedy"]
    with storage.writer() as writer:
        writer.write(b"of the job alone")
        blob = writer.commit()
    age(storage, blob.sha256)
    with sessions() as session:
        end(session, products=(Product("report.json", "report", blob),))
    assert client.delete(here).status_code == 204
    assert client.delete(here).status_code == 404 == client.get(here).status_code
    assert client.get(f"/v1/{kind}").json()["items"] == []
    with sessions() as session:
        tables = (Artifact, Attempt, JobEvent, JobTag)
        assert [session.scalar(select(func.count()).select_from(table)) for table in tables] == [0] * len(tables)
    assert collect_garbage(sessions, storage, settings).removed.blobs == 1
    actions = [entry["action"].partition(".")[2] for entry in client.get("/v1/audit").json()["items"]]
    assert actions[:2] == ["deleted", "submitted"]


def test_an_ended_one_is_submitted_again(
    client: httpx.Client, session: Session, kind: str, wish: dict[str, Any]
) -> None:
    first = submitted(client, kind, wish)
    refused = client.post(f"/v1/{kind}/{first['id']}/retry")
    assert (refused.status_code, refused.json()["code"]) == (409, "job_active")
    client.post(f"/v1/{kind}/{first['id']}/cancel")
    key = {"Idempotency-Key": "again"}
    answer = client.post(f"/v1/{kind}/{first['id']}/retry", headers=key)
    again = answer.json()
    assert (answer.status_code, answer.headers["Location"]) == (202, f"/v1/{kind}/{again['id']}")
    differs = {"id", "links", "created_at", "request_id", "retry_of"}
    assert {name: again[name] for name in again.keys() - differs} == {
        name: first[name] for name in first.keys() - differs
    }
    assert (again["retry_of"], first["retry_of"]) == (first["id"], None)
    assert client.post(f"/v1/{kind}/{first['id']}/retry", headers=key).json()["id"] == again["id"]
    end(session)
    assert client.delete(f"/v1/{kind}/{first['id']}").status_code == 204
    assert client.get(f"/v1/{kind}/{again['id']}").json()["retry_of"] == first["id"]
    client.delete(f"/v1/models/{wish['model']}").raise_for_status()
    assert client.post(f"/v1/{kind}/{again['id']}/retry").json()["code"] == "model_not_found"


def test_each_kind_has_its_own_addresses(client: httpx.Client, kind: str, wish: dict[str, Any]) -> None:
    other = {"jobs": "sweeps", "sweeps": "jobs"}[kind]
    there = f"/v1/{other}/{submitted(client, kind, wish)['id']}"
    answers = [client.delete(there), client.patch(there, json={"tags": []}), client.post(f"{there}/retry")]
    assert {answer.status_code for answer in answers} == {404}


def found(client: httpx.Client, kind: str, **query: Any) -> list[str]:
    answer = client.get(f"/v1/{kind}", params=query)
    assert answer.status_code == 200, answer.text
    return [job["id"] for job in answer.json()["items"]]


def test_jobs_are_found_by_what_became_of_them(client: httpx.Client, session: Session, model_id: str) -> None:
    wish = {"model": model_id, "preset": "int8-weight-only"}
    ids = []
    for sqnr_db in (20.5, None, inf):
        ids.append(submitted(client, "jobs", wish)["id"])
        end(session, sqnr_db)
    failed = submitted(client, "jobs", wish)["id"]
    assert endings.fail(session, claim_one(session), KILLED, (), Measured(sqnr_db=7.0))
    low, unknown, exact = ids
    assert [client.get(f"/v1/jobs/{job_id}").json()["sqnr_db"] for job_id in (*ids, failed)] == [20.5, None, None, 7.0]
    assert found(client, "jobs", code="validation_failed") == [failed]
    assert found(client, "jobs", code="killed") == []
    assert found(client, "jobs", verdict="passed") == [exact, unknown, low]
    assert found(client, "jobs", verdict="failed", state="failed", code="validation_failed") == [failed]
    assert found(client, "jobs", min_sqnr_db=20.5) == [exact, low]
    assert found(client, "jobs", min_sqnr_db=7, max_sqnr_db=20) == [failed]
    assert found(client, "jobs", max_sqnr_db=1e300) == [failed, low]
    for query in ({"verdict": "good"}, {"min_sqnr_db": "nan"}, {"min_sqnr_db": "inf"}, {"created_after": "2026-01-01"}):
        assert client.get("/v1/jobs", params=query).status_code == 422, query
    assert client.get("/v1/sweeps", params={"min_sqnr_db": 1}).status_code == 422


def test_lists_are_cut_by_time(client: httpx.Client, session: Session, kind: str, wish: dict[str, Any]) -> None:
    """From the first moment on and before the last, in any zone."""
    made = []
    for _ in range(3):
        made.append(submitted(client, kind, wish))
        end(session)
    ids = [job["id"] for job in made]
    ends = [client.get(f"/v1/{kind}/{job_id}").json()["finished_at"] for job_id in ids]
    for what, times in (("created", [job["created_at"] for job in made]), ("finished", ends)):
        assert found(client, kind, **{f"{what}_after": times[1]}) == [ids[2], ids[1]]
        assert found(client, kind, **{f"{what}_before": times[1]}) == [ids[0]]
        assert found(client, kind, **{f"{what}_after": times[1], f"{what}_before": times[2]}) == [ids[1]]
        for zone in (timedelta(hours=14), timedelta(hours=-12)):
            far = [datetime(year, 1, 1, tzinfo=UTC).isoformat()[:19] for year in (1, 9999)]
            hours = int(zone.total_seconds() // 3600)
            first, last = (f"{moment}{hours:+03}:00" for moment in far)
            assert found(client, kind, **{f"{what}_after": first, f"{what}_before": last}) == ids[::-1]
    live = submitted(client, kind, wish)["id"]
    assert found(client, kind, finished_after="1970-01-01T00:00:00Z") == ids[::-1]
    assert found(client, kind, created_after=made[0]["created_at"], state="queued") == [live]
