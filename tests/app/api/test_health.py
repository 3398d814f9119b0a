"""/healthz and /readyz with each part there, and away."""

from collections.abc import Callable
from pathlib import Path

import httpx
from sqlalchemy.orm import Session

from app.database import migrate
from app.jobs import workers
from app.settings import Settings
from tests.servers import free_port


def missing(client: httpx.Client) -> list[str]:
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
    return [fault["pointer"] for fault in answer.json()["errors"]]


def test_alive_needs_nothing(served_with: Callable[..., httpx.Client]) -> None:
    away = served_with(database_url="postgresql://127.0.0.1:1/x", broker_url=f"redis://127.0.0.1:{free_port()}")
    assert away.get("/healthz").json() == {"status": "ok"}


def test_ready_with_every_part(client: httpx.Client, session: Session) -> None:
    workers.announce_worker(session, "w", "cpu", {"landlock": True})
    assert client.get("/readyz").json() == {"status": "ready", "sandbox": {"landlock": True}, "away": {}}


def test_a_layer_counts_as_on_when_every_worker_has_it(client: httpx.Client, session: Session) -> None:
    workers.announce_worker(session, "new", "cpu", {"landlock": True, "seccomp": True, "signals": True})
    workers.announce_worker(session, "old", "cpu", {"landlock": True, "seccomp": False})
    layers = {"landlock": True, "seccomp": False, "signals": False}
    assert client.get("/readyz").json()["sandbox"] == layers


def test_not_ready_without_a_worker(client: httpx.Client) -> None:
    assert missing(client) == ["/worker"]


def test_not_ready_without_a_broker(served_with: Callable[..., httpx.Client], session: Session) -> None:
    workers.announce_worker(session, "w", "cpu", {})
    assert missing(served_with(broker_url=f"redis://127.0.0.1:{free_port()}")) == ["/broker"]


def test_not_ready_without_migrations(client: httpx.Client, settings: Settings) -> None:
    migrate(settings, "base")
    assert missing(client) == ["/database", "/worker"]


def test_not_ready_without_a_database(served_with: Callable[..., httpx.Client]) -> None:
    away = served_with(database_url=f"postgresql://u@127.0.0.1:{free_port()}/x")
    assert missing(away) == ["/database", "/worker"]


def test_an_identity_provider_that_is_away_is_named_and_keys_work(
    served_with: Callable[..., httpx.Client], session: Session
) -> None:
    workers.announce_worker(session, "w", "cpu", {})
    issuer = {"oidc_issuer": f"http://127.0.0.1:{free_port()}", "oidc_audience": "zeropoint"}
    answer = served_with(**issuer).get("/readyz")
    assert (answer.status_code, answer.json()["away"]) == (
        200,
        {"identity_provider": "the identity provider does not answer"},
    )


def test_not_ready_when_blobs_can_not_be_written(client: httpx.Client, settings: Settings, session: Session) -> None:
    workers.announce_worker(session, "w", "cpu", {})
    (Path(settings.storage_url.removeprefix("file:")) / "tmp").rmdir()
    assert missing(client) == ["/storage"]
