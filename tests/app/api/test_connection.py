"""Connections without a request, without a reader, and too many of them."""

import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from app.api.server import server_of
from app.database import connected
from app.jobs import endings
from app.jobs.endings import Product
from app.main import create_app
from app.settings import Settings
from app.storage import open_storage
from tests.app.api.raw_http import RawClient
from tests.factories import add_job, claim_one
from tests.servers import api_thread, wait_until

SECONDS = 0.5
MOST = 8
DOWNLOAD_BYTES = 24 * 2**20
PATIENT_BYTES = 2**20
"""What is read slowly; until the system has this much less to send, nothing moves in the API's own buffer."""


@pytest.fixture(scope="module")
def settings(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("connection")
    return Settings(
        database_url=f"sqlite:///{shutil.copy(sqlite_template, folder / 'zeropoint.db')}",
        storage_url=f"file:{folder}",
        scratch_dir=folder,
        broker_url="redis://127.0.0.1:1/0",
        idle_seconds=SECONDS,
        head_seconds=SECONDS,
        connections=MOST,
    )


@pytest.fixture(scope="module")
def address(settings: Settings) -> Iterator[str]:
    with api_thread(create_app(settings, reconciles=False)) as client:
        yield str(client.base_url)


HEADS = {
    "nothing": b"",
    "a line": b"GET /healthz HTTP/1.1\r\n",
    "all but the end": b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: y\r\n",
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("before", [0, 1], ids=["first", "second"])
def test_a_head_that_is_slow_ends(head: bytes, before: int, address: str) -> None:
    with RawClient(address) as client:
        for _ in range(before):
            client.send(b"HEAD /v1/jobs/job_1/artifacts/a HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b" 404 " in client.read()
        client.send(head)
        answer = client.answer()
    if head:
        assert (answer.status, answer.code) == (408, "head_too_slow")
    else:
        assert answer.status == 0


def test_one_that_is_no_http_is_answered_with_a_problem(address: str) -> None:
    with RawClient(address) as client:
        client.send(b"EHLO mail.example\r\n\r\n")
        answer = client.answer()
    assert (answer.status, answer.code) == (400, "request_unreadable")


def test_an_idle_connection_makes_room_for_a_new_one(address: str) -> None:
    with ExitStack() as stack:
        for _ in range(MOST + 2):
            stack.enter_context(RawClient(address))
        assert httpx.get(f"{address}/v1/presets", trust_env=False).status_code == 200


def test_only_who_has_sent_nothing_makes_room(address: str) -> None:
    """Also where a thousand connect faster than they are accepted; each is answered, and by no connection's end."""
    with ExitStack() as stack:
        for _ in range(MOST):
            stack.enter_context(RawClient(address))
        asking = [stack.enter_context(RawClient(address)) for _ in range(MOST - 1)]
        for client in asking:
            client.send(b"GET /v1/presets HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert {client.answer().status for client in asking} == {200}


@pytest.mark.timed
def test_room_for_many_takes_no_time(settings: Settings) -> None:
    """Connections that come and send nothing: looking for room takes a moment in all, not for each of them."""
    app = create_app(settings.model_copy(update={"connections": 300}), reconciles=False)
    with api_thread(app) as client, ExitStack() as stack:
        for _ in range(1500):
            stack.enter_context(RawClient(str(client.base_url)))
        began = time.monotonic()
        assert client.get("/healthz").status_code == 200
        assert time.monotonic() - began < 3


CRUMBS = b"1\r\nx\r\n"
PIECES = {
    "fields": b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 5000 + b"\r\n",
    "fields without an end": b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 5000,
    "a long field": b"GET /healthz HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 50_000 + b"\r\n\r\n",
    "a long address": b"GET /" + b"b" * 50_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "crumbs": b"POST /v1/models HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + CRUMBS * 5000,
    "crumbs of a wish": b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + CRUMBS * 5000,
    "crumbs for nobody": b"GET /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + CRUMBS * 5000,
}


@pytest.mark.parametrize("sent", PIECES.values(), ids=PIECES)
def test_what_comes_in_too_many_pieces_is_refused_and_leaves_nothing(
    sent: bytes, address: str, settings: Settings
) -> None:
    with RawClient(address) as client:
        client.send(sent)
        answer = client.answer()
    if answer.status:  # the system drops an answer to one who still sends
        assert (answer.status, answer.code) == (400, "request_unreadable")
    wait_until(lambda: not list((Path(settings.storage_url.removeprefix("file:")) / "tmp").iterdir()))
    assert httpx.get(f"{address}/healthz", trust_env=False).status_code == 200


def test_beyond_the_limit_others_are_refused_and_probes_are_answered(address: str) -> None:
    with ExitStack() as stack:
        for _ in range(MOST):
            stack.enter_context(RawClient(address)).begin("POST", "/v1/models", 1000)
        time.sleep(SECONDS / 5)
        refusal = httpx.get(f"{address}/v1/presets", trust_env=False)
        assert httpx.get(f"{address}/healthz", trust_env=False).status_code == 200
        assert httpx.get(f"{address}/readyz", trust_env=False).json()["code"] == "not_ready"
    assert (refusal.status_code, refusal.json()["code"]) == (503, "busy")
    assert int(refusal.headers["Retry-After"]) > 0
    wait_until(lambda: httpx.get(f"{address}/v1/presets", trust_env=False).status_code == 200)


@pytest.fixture(scope="module")
def download(address: str, settings: Settings) -> str:
    """An artifact that no buffer of the system holds as a whole."""
    with connected(settings) as sessions, sessions() as session, open_storage(settings).writer() as writer:
        for _ in range(DOWNLOAD_BYTES // 2**20):
            writer.write(bytes(2**20))
        job_id = add_job(session).id
        assert endings.succeed(session, claim_one(session), "passed", [Product("large", "weights", writer.commit())])
    return f"GET /v1/jobs/{job_id}/artifacts/large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def test_a_download_that_nobody_reads_ends(address: str, download: str) -> None:
    with RawClient(address, receive_bytes=2**14) as client:
        client.send(download.encode())
        time.sleep(6 * SECONDS)
        assert len(client.answer().body) < DOWNLOAD_BYTES


def test_one_that_is_read_slowly_comes_as_a_whole(address: str, download: str) -> None:
    with RawClient(address, receive_bytes=2**14) as client:
        client.send(download.encode())
        received = 0
        while chunk := client.read():
            received += len(chunk)
            time.sleep(0.02 if received < PATIENT_BYTES else 0)
    assert received > DOWNLOAD_BYTES


def test_idle_connections_outlive_those_of_clients(tmp_path: Path) -> None:
    settings = Settings(database_url="sqlite://", storage_url=f"file:{tmp_path}")
    server = server_of(create_app(settings, reconciles=False), "127.0.0.1", 0)
    expiry = httpx.Limits().keepalive_expiry
    assert expiry is not None
    assert server.config.timeout_keep_alive > 2 * expiry
