"""Quotas: each is kept, says when to come back, and bounds nobody but its own project."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from sqlalchemy.orm import Session, sessionmaker

from app.accounts import keys, projects, quotas
from app.accounts.caller import DEFAULT_PROJECT, Role, called_by
from app.accounts.quotas import Quotas
from app.api.rates import REDIS_SECONDS, Rates
from app.errors import TooMany, Unavailable
from app.jobs import service
from app.settings import Settings
from tests.factories import add_job, member_of, safetensors
from tests.servers import free_port, wait_until

DATA = safetensors(x=("F32", [4, 3]))
WISH = {"recipe": {"activations": None}}

Serve = Callable[..., httpx.Client]


@pytest.fixture
def serve(served_with: Serve) -> Serve:
    """The API with other settings."""
    return served_with


def refused(answer: httpx.Response, code: str = "quota_exceeded") -> bool:
    if answer.status_code != 429:
        return False
    assert answer.json()["code"] == code
    assert int(answer.headers["Retry-After"]) > 0
    return True


def test_jobs_that_have_not_ended_are_bounded(serve: Serve, session: Session) -> None:
    client, model = serve(quota_jobs=2), add_job(session).model_id
    wish = {"model": model, **WISH}
    first = client.post("/v1/jobs", json=wish, headers={"Idempotency-Key": "k"})
    assert first.status_code == 202
    assert refused(client.post("/v1/jobs", json=wish))
    assert client.post("/v1/jobs", json=wish, headers={"Idempotency-Key": "k"}).json()["id"] == first.json()["id"]
    assert client.get("/v1/usage").json()["jobs"] == {"used": 2, "quota": 2}
    service.request_cancel(session, first.json()["id"])
    assert client.post("/v1/jobs", json=wish).status_code == 202


def test_many_at_once_do_not_pass_a_quota_together(serve: Serve, session: Session) -> None:
    client, model = serve(quota_jobs=4), add_job(session).model_id
    session.rollback()
    with ThreadPoolExecutor(8) as threads:
        sent = [threads.submit(client.post, "/v1/jobs", json={"model": model, **WISH}) for _ in range(12)]
        statuses = sorted(one.result().status_code for one in sent)
    assert statuses == [202] * 3 + [429] * 9


def test_a_request_that_is_sent_twice_at_once_counts_once(serve: Serve, session: Session) -> None:
    client, model = serve(quota_jobs=2), add_job(session).model_id
    session.rollback()
    wish, headers = {"model": model, **WISH}, {"Idempotency-Key": "k"}
    with ThreadPoolExecutor(6) as threads:
        sent = [threads.submit(client.post, "/v1/jobs", json=wish, headers=headers) for _ in range(6)]
        answers = [one.result() for one in sent]
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1


def test_the_bounds_of_a_project_are_those_of_the_settings() -> None:
    fields = {name: Settings.model_fields[f"quota_{name}"].metadata for name in quotas.NAMES}
    bounds = {name: (metadata[0].ge, metadata[1].le) for name, metadata in fields.items()}
    assert bounds == {name: (getattr(quotas.LEAST, name), getattr(quotas.MOST, name)) for name in quotas.NAMES}


def test_jobs_of_a_day_are_bounded_also_where_they_were_deleted(serve: Serve, session: Session) -> None:
    job = add_job(session)
    client, wish = serve(quota_jobs_a_day=2), {"model": job.model_id, **WISH}
    assert client.post("/v1/jobs", json=wish).status_code == 202
    session.delete(service.request_cancel(session, job.id))
    session.commit()
    answer = client.post("/v1/jobs", json=wish)
    assert refused(answer)
    assert 86_000 < int(answer.headers["Retry-After"]) <= 86_400


def test_bytes_are_bounded_before_the_first_is_read(serve: Serve) -> None:
    client = serve(quota_bytes=len(DATA) + 10)
    assert client.post("/v1/datasets", content=DATA).status_code == 201
    assert refused(client.post("/v1/datasets", content=DATA))
    chunked = client.post("/v1/datasets", content=iter([DATA]))  # of no announced length
    assert refused(chunked)
    used = client.get("/v1/usage").json()["bytes"]
    assert used["used"] <= used["quota"]
    (dataset,) = client.get("/v1/datasets").json()["items"]
    client.delete(f"/v1/datasets/{dataset['id']}").raise_for_status()
    assert client.post("/v1/datasets", content=DATA).status_code == 201


def test_uploads_at_once_are_bounded(serve: Serve) -> None:
    client = serve(quota_uploads=1)
    go_on = threading.Event()

    def slowly() -> Iterator[bytes]:
        yield DATA[:10]
        go_on.wait(30)
        yield DATA[10:]

    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(client.post, "/v1/datasets", content=slowly())
        wait_until(lambda: client.get("/v1/usage").json()["uploads"]["used"] == 1)
        assert refused(client.post("/v1/datasets", content=DATA))
        go_on.set()
        assert first.result().status_code == 201
    assert client.post("/v1/datasets", content=DATA).status_code == 201


def test_requests_a_second_are_bounded_over_all_processes(serve: Serve, settings: Settings) -> None:
    client = serve(quota_requests_a_second=5)
    other = Rates(settings)  # of another process
    most = Quotas(requests_a_second=5)

    async def ask() -> int:
        taken = 0
        for _ in range(3):
            await other.check(DEFAULT_PROJECT, most)
            taken += 1
        return taken

    assert asyncio.run(ask()) == 3
    answers = [client.get("/v1/presets") for _ in range(6)]
    assert any(refused(answer, "rate_exceeded") for answer in answers)
    assert client.get("/healthz").status_code == 200


def test_without_redis_requests_are_answered_unless_the_settings_say_no(settings: Settings) -> None:
    away = settings.model_copy(update={"broker_url": f"redis://127.0.0.1:{free_port()}/0"})
    most = Quotas(requests_a_second=1)
    for _ in range(5):
        asyncio.run(Rates(away).check("p", most))
    strict = Rates(away.model_copy(update={"quota_fail_open": False}))
    with pytest.raises(Unavailable) as unavailable:
        asyncio.run(strict.check("p", most))
    assert (unavailable.value.code, unavailable.value.retry_after) == ("rates_away", 2)


def test_a_redis_that_hangs_is_waited_for_by_few(settings: Settings) -> None:
    """Of many at once those that ask first wait, and nobody behind them."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        rates = Rates(settings.model_copy(update={"broker_url": f"redis://127.0.0.1:{silent.getsockname()[1]}/0"}))

        async def ask() -> None:
            await asyncio.gather(*(rates.check("p", Quotas(requests_a_second=1)) for _ in range(100)))

        began = time.monotonic()
        asyncio.run(ask())
        assert time.monotonic() - began < 8 * REDIS_SECONDS  # 25 in a row without


def test_requests_are_counted_again_once_redis_is_back(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    rates, most = Rates(settings), Quotas(requests_a_second=1)
    monkeypatch.setattr("app.api.rates.PAUSE_SECONDS", 0.05)
    rates._is_away = True

    async def ask() -> None:
        for _ in range(3):
            await rates.check("p", most)

    with pytest.raises(TooMany):
        asyncio.run(ask())


def test_a_project_may_have_quotas_of_its_own(settings: Settings, session: Session) -> None:
    projects.create(session, "rich")
    usual = settings.model_copy(update={"quota_jobs": 1, "quota_bytes": 5})
    quotas.give(session, "rich", {"jobs": 100})
    assert quotas.quotas_of(session, usual, "rich") == Quotas(bytes=5, jobs=100)
    quotas.give(session, "rich", {"jobs": None})
    assert quotas.quotas_of(session, usual, "rich") == quotas.usual_quotas(usual)


def test_a_project_that_is_at_its_end_holds_up_no_other(serve: Serve, sessions: sessionmaker[Session]) -> None:
    auth = {}
    with sessions() as session:
        for name in ("ours", "theirs"):
            projects.create(session, name)
            with called_by(member_of(name)):
                secret = keys.create(session, name, "key", Role.SUBMITTER).secret
            model = add_job(session, project=name).model_id
            auth[name] = ({"model": model, **WISH}, {"Authorization": f"Bearer {secret}"})
        quotas.give(session, "ours", {"jobs": 1})
    client = serve(auth="on")
    wish, headers = auth["ours"]
    assert refused(client.post("/v1/jobs", json=wish, headers=headers))
    wish, headers = auth["theirs"]
    assert client.post("/v1/jobs", json=wish, headers=headers).status_code == 202


def test_the_kind_of_refusal() -> None:
    assert TooMany("quota_exceeded", "a", "b", retry_after=3).retry_after == 3
