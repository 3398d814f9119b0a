"""Bodies that never come, or trickle: at every address that reads one, and at those that don't."""

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from app.main import create_app
from app.settings import Settings
from tests.app.api.raw_http import RawClient
from tests.servers import api_thread, wait_until

IDLE_SECONDS = 0.4
UPLOADS_AND_WISHES = ("/v1/models", "/v1/datasets", "/v1/jobs", "/v1/sweeps")


def every_operation() -> list[tuple[str, str]]:
    """Method and address: those that read a body, and those to which a client sends one all the same."""
    paths = create_app(Settings(), reconciles=False).openapi()["paths"]
    return sorted(
        (method.upper(), path.replace("{", "").replace("}", ""))
        for path, methods in paths.items()
        for method in methods
    )


@pytest.fixture(scope="module")
def settings(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("pace")
    return Settings(
        database_url=f"sqlite:///{shutil.copy(sqlite_template, folder / 'zeropoint.db')}",
        storage_url=f"file:{folder}",
        scratch_dir=folder,
        broker_url="redis://127.0.0.1:1/0",
        idle_seconds=IDLE_SECONDS,
        head_seconds=IDLE_SECONDS,
    )


@pytest.fixture(scope="module")
def address(settings: Settings) -> Iterator[str]:
    with api_thread(create_app(settings, reconciles=False)) as client:
        yield str(client.base_url)


def unfinished(settings: Settings) -> list[Path]:
    return list((Path(settings.storage_url.removeprefix("file:")) / "tmp").iterdir())


def test_a_body_that_never_comes_ends_with_an_answer_and_leaves_nothing(address: str, settings: Settings) -> None:
    operations = every_operation()
    clients = [RawClient(address) for _ in operations]
    began = time.monotonic()
    for client, (method, path) in zip(clients, operations, strict=True):
        client.begin(method, path, 1000)
    answers = dict(zip(operations, map(RawClient.answer, clients), strict=True))
    assert time.monotonic() - began < 10
    assert all(answer.status for answer in answers.values())
    assert {answers["POST", path].code for path in UPLOADS_AND_WISHES} == {"body_too_slow"}
    assert {answers["POST", path].headers["connection"] for path in UPLOADS_AND_WISHES} == {"close"}
    assert unfinished(settings) == []
    for client in clients:
        client.close()


@pytest.mark.parametrize("path", ["/v1/models", "/v1/jobs", "/v1/jobs/job_1/cancel"])
def test_one_that_trickles_ends_too(path: str, address: str) -> None:
    over = threading.Event()
    with RawClient(address) as client:
        client.begin("POST", path, 2**19)

        def trickle() -> None:
            with suppress(OSError):
                while not over.wait(IDLE_SECONDS / 8):
                    client.send(b" ")

        thread = threading.Thread(target=trickle)
        thread.start()
        began = time.monotonic()
        answer = client.answer()
        over.set()
        thread.join()
    assert time.monotonic() - began < 10
    assert answer.status in {408, 404, 0}  # a reset may overtake the answer: bytes came that nobody read


def test_one_that_is_slow_but_comes_is_taken(address: str) -> None:
    """It takes twice as long as a body may be idle, and then is refused for what it holds."""
    with RawClient(address) as client:
        client.begin("POST", "/v1/models?name=slow", 10 * 4096, "application/octet-stream")
        for _ in range(10):
            time.sleep(IDLE_SECONDS / 5)
            client.send(bytes(4096))
        assert b" 422 " in client.read()


def test_a_body_that_comes_at_once_is_not_hurried(address: str) -> None:
    with httpx.Client(base_url=address, trust_env=False) as client:
        assert client.post("/v1/jobs", json={}).status_code == 422
        time.sleep(IDLE_SECONDS)
        assert client.get("/healthz").status_code == 200


def test_hundreds_of_bodies_that_never_come_all_end(address: str, settings: Settings) -> None:
    clients = [RawClient(address) for _ in range(300)]
    for client, path in zip(clients, UPLOADS_AND_WISHES * 75, strict=True):
        client.begin("POST", path, 1000)
    assert {client.answer().code for client in clients} == {"body_too_slow"}
    wait_until(lambda: unfinished(settings) == [])
    for client in clients:
        client.close()
