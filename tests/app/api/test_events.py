"""Server-sent events: followed over HTTP to their end, by many at once, and never those of another project."""

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
import pytest
from sqlalchemy import Engine, delete, event
from sqlalchemy.orm import Session, sessionmaker

from app.accounts import keys, projects
from app.accounts.caller import ANYONE, Role
from app.api import event_stream, feed
from app.api.dependencies import Services
from app.api.event_stream import asks_for_events
from app.api.feed import Feed
from app.api.schemas import ProjectEventBody
from app.errors import Unavailable
from app.jobs import endings, service
from app.jobs.models import Job
from app.main import create_services
from app.settings import Settings
from tests.factories import add_job, claim_one
from tests.servers import wait_until

ASKS = {"Accept": "text/event-stream"}


@dataclass
class Heard:
    """What a stream sent: its events, how many heartbeats, whether it has ended."""

    events: list[tuple[int, str, dict[str, object]]] = field(default_factory=list)
    heartbeats: int = 0
    ended: bool = False
    status: int = 0

    def read(self, lines: Iterator[str]) -> None:
        fields: dict[str, str] = {}
        for line in lines:
            if line.startswith(":"):
                self.heartbeats += 1
            elif line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif "data" in fields:
                self.events.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
                fields = {}
        self.ended = True

    @property
    def ids(self) -> list[int]:
        return [number for number, _, _ in self.events]

    @property
    def jobs(self) -> list[object]:
        return [body["job"] for _, _, body in self.events]


@contextmanager
def following(client: httpx.Client, path: str, **headers: str) -> Iterator[Heard]:
    """Follow a stream in a thread, from before the block on; the client goes away with it."""
    heard, began = Heard(), threading.Event()
    own = httpx.Client(base_url=client.base_url, timeout=60, trust_env=False)

    def follow() -> None:
        try:
            with own.stream("GET", path, headers={**ASKS, **headers}) as answer:
                heard.status = answer.status_code
                lines = answer.iter_lines()
                if answer.status_code == 200:
                    assert answer.headers["content-type"].startswith("text/event-stream")
                    assert next(lines).startswith("retry: ")
                began.set()
                heard.read(lines)
        except (httpx.HTTPError, OSError):
            pass
        finally:
            began.set()

    thread = threading.Thread(target=follow)
    thread.start()
    assert began.wait(60)
    try:
        yield heard
    finally:
        # A stream that is read can't be closed from another thread: its connection can.
        for connection in list(own._transport._pool.connections):  # type: ignore[attr-defined]
            stream = connection._connection._network_stream if connection._connection else None
            if stream and not heard.ended:
                stream._sock.shutdown(2)
        thread.join(60)
        own.close()


@pytest.fixture
def services(client: httpx.Client) -> Services:
    services: Services = client.app.state.services  # type: ignore[attr-defined]
    return services


def test_a_job_is_followed_to_its_end(client: httpx.Client, session: Session) -> None:
    job, other = add_job(session), add_job(session)
    with following(client, f"/v1/jobs/{job.id}/events") as heard:
        wait_until(lambda: len(heard.events) == 1)
        claim = claim_one(session)
        wait_until(lambda: len(heard.events) == 2)
        service.request_cancel(session, other.id)
        endings.succeed(session, claim, "passed", [])
        wait_until(lambda: heard.ended)
    assert [(number, kind) for number, kind, _ in heard.events] == [(1, "state"), (2, "state"), (3, "state")]
    page = client.get(f"/v1/jobs/{job.id}/events").json()["items"]
    assert [body for _, _, body in heard.events] == page


def test_whoever_comes_back_goes_on_behind_the_last_id(client: httpx.Client, session: Session) -> None:
    job = add_job(session)
    path = f"/v1/jobs/{job.id}/events"
    with following(client, path, **{"Last-Event-ID": "1"}) as heard:
        time.sleep(0.6)
        assert heard.events == []
        service.request_cancel(session, job.id)
        wait_until(lambda: heard.ended)
    assert heard.ids == [2]
    with following(client, path, **{"Last-Event-ID": "1"}) as again:
        wait_until(lambda: again.ended)
    assert again.events == heard.events
    assert client.get(path, headers={**ASKS, "Last-Event-ID": "2"}).status_code == 204
    assert client.get(path, headers={**ASKS, "Last-Event-ID": "x"}).status_code == 422
    assert client.get("/v1/jobs/job_0/events", headers=ASKS).json()["code"] == "job_not_found"


def test_a_page_is_the_default(client: httpx.Client, session: Session) -> None:
    job = add_job(session)
    service.request_cancel(session, job.id)
    for headers in ({}, {"Accept": "*/*"}, {"Accept": "application/json"}, {"Accept": "text/event-stream;q=0"}):
        history = client.get(f"/v1/jobs/{job.id}/events", headers=headers).json()["items"]
        assert [item["seq"] for item in history] == [1, 2]
        items = client.get("/v1/events", headers=headers).json()["items"]
        assert [(item["position"], item["job"], item["seq"]) for item in items] == [(1, job.id, 1), (2, job.id, 2)]
    assert client.get("/v1/events", params={"after": 1, "limit": 1}).json()["items"] == items[1:]


@pytest.mark.parametrize(
    ("accept", "asks"),
    [
        (None, False),
        ("text/event-stream", True),
        ("text/html, TEXT/event-stream;q=0.9", True),
        ("text/event-stream; q=0.0", False),
        ("text/*", False),
        ("text/event-streams", False),
    ],
)
def test_the_accept_header_decides(accept: str | None, asks: bool) -> None:
    assert asks_for_events(accept) is asks


def test_a_head_has_the_headers_and_an_end(client: httpx.Client, session: Session) -> None:
    answer = client.head("/v1/events", headers=ASKS)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")


def test_a_project_is_followed_from_now_on_or_from_an_id(client: httpx.Client, session: Session) -> None:
    first = add_job(session).id
    client.get("/v1/events")  # publishes
    with following(client, "/v1/events") as heard, following(client, "/v1/events?after=0") as whole:
        second = add_job(session).id
        wait_until(lambda: len(heard.events) == 1 and len(whole.events) == 2)
        service.request_cancel(session, first)
        wait_until(lambda: len(heard.events) == 2 and len(whole.events) == 3)
    assert (heard.ids, heard.jobs) == ([2, 3], [second, first])
    assert (whole.ids, whole.jobs) == ([1, 2, 3], [first, second, first])
    with following(client, "/v1/events", **{"Last-Event-ID": "2"}) as again:
        wait_until(lambda: len(again.events) == 1)
    assert again.events == heard.events[1:]


def test_a_long_absence_is_read_in_pages(
    client: httpx.Client, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.api.events.PAGE", 2)
    jobs = [add_job(session).id for _ in range(5)]
    with following(client, "/v1/events?after=0") as heard:
        wait_until(lambda: len(heard.events) == 5)
        jobs.append(add_job(session).id)
        wait_until(lambda: len(heard.events) == 6)
    assert (heard.ids, heard.jobs) == ([1, 2, 3, 4, 5, 6], jobs)


@pytest.fixture
def secrets(client: httpx.Client, services: Services, settings: Settings) -> Iterator[dict[str, str]]:
    """A service with accounts: a key of a reader of each of two projects."""
    with_accounts = create_services(settings.model_copy(update={"auth": "on"}))
    client.app.state.services = with_accounts  # type: ignore[attr-defined]
    made = {}
    with with_accounts.all_projects() as session:
        for project in ("ours", "theirs"):
            projects.create(session, project)
            made[project] = keys.create(session, project, "reader", Role.READER).secret
    yield made
    client.app.state.services = services  # type: ignore[attr-defined]
    wait_until(lambda: not with_accounts.feed._listeners)
    with_accounts.engine.dispose()
    with_accounts.celery.close()


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def test_nobody_hears_of_another_project(client: httpx.Client, session: Session, secrets: dict[str, str]) -> None:
    theirs = add_job(session, project="theirs").id
    ours, our_key = add_job(session, project="ours").id, bearer(secrets["ours"])
    refused = client.get(f"/v1/jobs/{theirs}/events", headers={**ASKS, **our_key})
    assert (refused.status_code, refused.json()["code"]) == (404, "job_not_found")
    assert client.get("/v1/events", headers=ASKS).status_code == 401
    with (
        following(client, "/v1/events?after=0", **our_key) as heard,
        following(client, "/v1/events?after=0", **bearer(secrets["theirs"])) as other,
    ):
        for job in (theirs, ours):
            service.request_cancel(session, job)
        wait_until(lambda: len(heard.events) == 2 and len(other.events) == 2)
        time.sleep(0.3)
    assert (set(heard.jobs), set(other.jobs)) == ({ours}, {theirs})
    assert {item["job"] for item in client.get("/v1/events", headers=our_key).json()["items"]} == {ours}


def test_who_listens_with_a_key_that_is_revoked_hears_no_more(
    client: httpx.Client, session: Session, secrets: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "CHECK_SECONDS", 0.2)
    with (
        following(client, "/v1/events", **bearer(secrets["ours"])) as heard,
        following(client, "/v1/events", **bearer(secrets["theirs"])) as other,
    ):
        (key,) = [row for row in keys.page(session, None, 10) if row.project == "ours"]
        keys.revoke(session, key.id)
        wait_until(lambda: heard.ended)
        assert not other.ended


def test_who_listens_to_a_job_that_is_deleted_hears_an_end(
    client: httpx.Client, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last event may go with it before it was looked for."""
    monkeypatch.setattr(feed, "CHECK_SECONDS", 0.2)
    job, other = add_job(session).id, add_job(session).id
    with (
        following(client, f"/v1/jobs/{job}/events") as heard,
        following(client, f"/v1/jobs/{other}/events") as stays,
    ):
        wait_until(lambda: len(heard.events) == len(stays.events) == 1)
        session.execute(delete(Job).where(Job.id == job))
        session.commit()
        wait_until(lambda: heard.ended)
        time.sleep(0.5)
        assert not stays.ended


def test_silence_has_heartbeats(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.api.events.HEARTBEAT_SECONDS", 0.1)
    with following(client, "/v1/events") as heard:
        wait_until(lambda: heard.heartbeats > 2)
    assert Settings().idle_seconds > event_stream.HEARTBEAT_SECONDS


def test_no_more_listen_than_may_and_a_client_that_goes_leaves_its_place(
    client: httpx.Client, services: Services
) -> None:
    services.feed._most = 2
    with following(client, "/v1/events"):
        with following(client, "/v1/events"):
            refusal = client.get("/v1/events", headers=ASKS)
            assert (refusal.status_code, refusal.json()["code"]) == (503, "busy")
            assert int(refusal.headers["retry-after"]) > 0
            assert client.get("/v1/events").status_code == 200
        wait_until(lambda: len(services.feed._listeners) == 1)
        assert "zeropoint_listeners 1.0" in client.get("/metrics").text
        with following(client, "/v1/events") as heard:
            assert heard.status == 200
    wait_until(lambda: not services.feed._listeners)


def test_all_listeners_share_one_query(client: httpx.Client, session: Session, services: Services) -> None:
    job = add_job(session)
    counted: Counter[str] = Counter()
    with (
        following(client, "/v1/events") as one,
        following(client, "/v1/events") as two,
        following(client, f"/v1/jobs/{job.id}/events") as three,
    ):
        wait_until(lambda: len(three.events) == 1)
        time.sleep(0.5)
        event.listen(services.engine, "before_cursor_execute", lambda *call: counted.update([call[2].split()[0]]))
        time.sleep(1.1)
        seen = counted["SELECT"]
        service.request_cancel(session, job.id)
        wait_until(lambda: three.ended and min(len(one.events), len(two.events)) >= 1)
    assert 1 <= seen <= 12  # two a poll: what waits to be published, what was published


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_database_that_is_away_for_a_moment_loses_nothing(
    client: httpx.Client, session: Session, services: Services, engine: Engine
) -> None:
    job = add_job(session)
    real = services.feed._sessions
    with following(client, "/v1/events") as heard:
        away: sessionmaker[Session] = sessionmaker(engine.execution_options(schema_translate_map={None: "nowhere"}))
        services.feed._sessions = away
        time.sleep(0.6)
        service.request_cancel(session, job.id)
        time.sleep(0.6)
        assert heard.events == []
        services.feed._sessions = real
        wait_until(lambda: len(heard.events) == 2)
    assert heard.jobs == [job.id, job.id]


def test_who_reads_slower_than_things_happen_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "MOST_QUEUED", 3)
    body = ProjectEventBody.model_validate(
        {"seq": 1, "at": "2026-01-01T00:00:00Z", "kind": "state", "data": {}, "position": 1, "job": "job_0"}
    )
    listener = feed.Listener(ANYONE, None, 0, float("inf"))
    for _ in range(3):
        listener.hear("default", body)
    assert not listener.ended
    listener.hear("another", body)
    assert not listener.ended
    listener.hear("default", body)
    assert listener.ended
    assert not listener._events


def test_a_feed_for_nobody_refuses(sessions: sessionmaker[Session]) -> None:
    with pytest.raises(Unavailable):
        asyncio.run(Feed(sessions, 0).begin())
