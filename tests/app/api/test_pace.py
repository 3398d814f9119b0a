"""Bodies that never come, or trickle: at every address that reads one, and at those that don't."""

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from app.api.admission import BodyPlaces, bodies_busy
from app.api.dependencies import Services
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


SLOW: dict[str, tuple[str, bytes]] = {
    "/v1/datasets": ("bodies", b"x"),
    "/v1/jobs": ("documents", b"[" + b" " * 5000),
}


CONTENT_TYPES = {"bodies": "application/octet-stream", "documents": "application/json"}


@pytest.mark.parametrize("path", SLOW)
def test_where_all_places_are_taken_slow_bodies_give_way(
    path: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else as many that trickle as there are places would keep all others out for as long as they like."""
    monkeypatch.setattr("app.api.pace.RATED_SECONDS", 0.2)
    app = create_app(settings.model_copy(update={"idle_seconds": 60.0}), reconciles=False)
    services: Services = app.state.services
    kind, begun = SLOW[path]
    places = BodyPlaces(2, bodies_busy)
    app.state.services = replace(services, admission=replace(services.admission, **{kind: places}))
    with api_thread(app) as served:
        clients = [RawClient(str(served.base_url)) for _ in range(2)]
        for client in clients:
            client.begin("POST", path, 100_000, CONTENT_TYPES[kind])
            client.send(begun)
        wait_until(lambda: len(places._bodies) == 2)
        time.sleep(0.3)
        headers = {"Content-Type": CONTENT_TYPES[kind]}
        answer = served.post(path, content=b"[" + b" " * 6000 + b"]", headers=headers)
        assert answer.status_code in (400, 422), answer.text
        for refused in (client.answer() for client in clients):
            assert (refused.status, refused.code) == (503, "busy")
        for client in clients:
            client.close()
