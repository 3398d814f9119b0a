"""The API's process when it is told to stop: everyone gets an answer, and soon."""

import http.client
import os
import resource
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest

from app.cli.commands import api_command, with_root
from app.database import connected
from app.settings import Settings
from tests.app.api.raw_http import RawClient
from tests.factories import add_job
from tests.servers import ROOT, api_process, wait_until
from tests.service.processes import is_running

pytestmark = [pytest.mark.parametrize("database_url", ["sqlite"], indirect=True), pytest.mark.timed]

STOP_SECONDS = 2.0


@pytest.fixture
def environment(settings: Settings) -> Mapping[str, str]:
    given = {f"ZEROPOINT_{name.upper()}": str(value) for name, value in settings.model_dump().items()}
    return {**os.environ, **given, "ZEROPOINT_STOP_SECONDS": str(STOP_SECONDS)}


@pytest.fixture
def process(environment: Mapping[str, str], tmp_path: Path) -> Iterator[tuple[int, str]]:
    with api_process(environment, tmp_path / "api.log") as running:
        yield running


def ended_after(process_id: int) -> float:
    began = time.monotonic()
    wait_until(lambda: not is_running(process_id))
    return time.monotonic() - began


def test_who_waits_for_a_job_gets_it_as_it_is_and_who_uploads_a_refusal(
    process: tuple[int, str], settings: Settings, tmp_path: Path
) -> None:
    process_id, address = process
    with connected(settings) as sessions, sessions() as session:
        model = add_job(session).model_id
    answers: list[httpx.Response] = []

    def wait_for_a_job() -> None:
        wish = {"model": model, "recipe": {"activations": None}}
        answers.append(
            httpx.post(f"{address}/v1/jobs", json=wish, headers={"Prefer": "wait=60"}, timeout=60, trust_env=False)
        )

    waiter = threading.Thread(target=wait_for_a_job)
    waiter.start()
    time.sleep(0.7)
    with RawClient(address) as upload, RawClient(address) as wish:
        upload.begin("POST", "/v1/models", 2**20, "application/octet-stream")
        upload.send(bytes(2**12))
        wish.begin("POST", "/v1/jobs", 1000)
        time.sleep(0.3)
        began = time.monotonic()
        os.kill(process_id, signal.SIGTERM)
        refusals = [upload.answer(), wish.answer()]
    waiter.join()
    assert time.monotonic() - began < STOP_SECONDS
    assert ended_after(process_id) < STOP_SECONDS
    assert [(refusal.status, refusal.code) for refusal in refusals] == [(503, "stopping")] * 2
    assert all(int(refusal.headers["retry-after"]) > 0 for refusal in refusals)
    assert [(answer.status_code, answer.json()["state"]) for answer in answers] == [(202, "queued")]
    assert list((Path(settings.storage_url.removeprefix("file:")) / "tmp").iterdir()) == []
    assert "Traceback" not in (tmp_path / "api.log").read_text()


def test_while_a_request_is_worked_on_new_ones_are_refused_and_health_is_told(
    process: tuple[int, str], settings: Settings, tmp_path: Path
) -> None:
    """The database is locked: what is worked on takes longer than the stop may."""
    process_id, address = process
    url = httpx.URL(address)
    with connected(settings) as sessions, sessions() as session:
        model = add_job(session).model_id
        session.connection(execution_options={"sqlite_begin": "BEGIN IMMEDIATE"})
        stuck = http.client.HTTPConnection(url.host, url.port or 80, timeout=60)
        stuck.request("DELETE", f"/v1/models/{model}")
        time.sleep(0.5)
        os.kill(process_id, signal.SIGTERM)
        time.sleep(0.3)
        with httpx.Client(base_url=address, trust_env=False, timeout=60) as client:
            refusal, readiness, health = (client.get(path) for path in ("/v1/presets", "/readyz", "/healthz"))
        answer = stuck.getresponse()
        body = answer.read()
        stuck.close()
        took = ended_after(process_id)
    for refused in (refusal, readiness):
        assert (refused.status_code, refused.json()["code"]) == (503, "stopping")
        assert refused.headers["Connection"] == "close"
        assert int(refused.headers["Retry-After"]) > 0
    assert health.status_code == 200
    assert (answer.status, answer.headers["Content-Type"]) == (503, "application/problem+json"), body
    assert took < STOP_SECONDS + 2


def test_a_process_that_may_open_too_few_files_says_so_and_ends(environment: Mapping[str, str]) -> None:
    done = subprocess.run(
        api_command("127.0.0.1", 0),
        cwd=ROOT,
        env=with_root({**environment, "ZEROPOINT_CONNECTIONS": "1000"}),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (512, 512)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "ZEROPOINT_CONNECTIONS" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_idle_process_ends_at_once_and_again_is_harmless(process: tuple[int, str]) -> None:
    process_id, address = process
    host, port = httpx.URL(address).host, httpx.URL(address).port
    with socket.create_connection((host, port)):
        os.kill(process_id, signal.SIGTERM)
        with suppress(ProcessLookupError):
            os.kill(process_id, signal.SIGTERM)
        assert ended_after(process_id) < 1


def test_streams_of_events_end_in_good_order(process: tuple[int, str], settings: Settings) -> None:
    """The last chunk is sent, so that a client sees an end and not a break."""
    process_id, address = process
    with connected(settings) as sessions, sessions() as session:
        job = add_job(session).id
    paths = ("/v1/events?after=0", f"/v1/jobs/{job}/events")
    with httpx.Client(base_url=address, trust_env=False, timeout=60) as client, ExitStack() as stack:
        asks = {"Accept": "text/event-stream"}
        streams = [stack.enter_context(client.stream("GET", path, headers=asks)).iter_lines() for path in paths]
        for stream in streams:
            assert any(line.startswith("data: ") for line in stream)
        os.kill(process_id, signal.SIGTERM)
        began = time.monotonic()
        assert [list(stream)[-1:] for stream in streams] == [[""], [""]]
    assert time.monotonic() - began < 1
    assert ended_after(process_id) < STOP_SECONDS
