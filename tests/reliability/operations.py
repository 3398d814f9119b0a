"""What the driver can do, each with the product's own code: what comes before it, then the thing itself."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from sqlalchemy.orm import Session

from app.database import connected
from app.jobs import claims, endings, reconciler
from app.jobs.claims import Claim
from app.jobs.retention import referenced
from app.main import create_services
from app.settings import Settings
from app.storage import open_storage
from tests.reliability.stand_in import StandIns
from worker import tasks
from worker.child import scratch
from worker.outputs.publish import store
from zeropoint.schema.failures import describe_failure

KEY = {"Idempotency-Key": "once"}
RECIPE = {"activations": None, "formats": ["safetensors"]}


@dataclass(frozen=True)
class Place:
    """Where an operation happens, and what it is given."""

    settings: Settings
    app: FastAPI
    archive: Path
    out: Path
    ids: Mapping[str, str]

    def ask(self, method: str, path: str, **wanted: Any) -> Callable[[], None]:
        """One request to the API, in this process."""
        self.app.state.services = create_services(self.settings)

        async def send() -> None:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://here", timeout=60) as client:
                (await client.request(method, path, **wanted)).raise_for_status()

        return lambda: asyncio.run(send())

    def write(self, use_case: Callable[[Session], object]) -> Callable[[], None]:
        """One use-case on a session."""

        def run() -> None:
            with connected(self.settings) as sessions, sessions() as session:
                use_case(session)

        return run

    def claim(self) -> Claim:
        with connected(self.settings) as sessions, sessions() as session:
            claim = claims.claim(session, "cpu", "first", lease_seconds=60)
        assert claim is not None
        return claim


def upload(place: Place) -> Callable[[], None]:
    return place.ask("POST", "/v1/models", content=place.archive.read_bytes())


def submit(place: Place) -> Callable[[], None]:
    wanted = {"model": place.ids["model"], "recipe": RECIPE, "tags": ["a"]}
    return place.ask("POST", "/v1/jobs", json=wanted, headers=KEY)


def cancel(place: Place) -> Callable[[], None]:
    place.claim()
    return place.ask("POST", f"/v1/jobs/{place.ids['job']}/cancel")


def delete(place: Place) -> Callable[[], None]:
    return place.ask("DELETE", f"/v1/models/{place.ids['other_model']}")


def look(place: Place) -> Callable[[], None]:
    prestarted = StandIns(place.settings.scratch_dir, place.out)
    return partial(tasks.look, "first", place.settings, prestarted)


def renew(place: Place) -> Callable[[], None]:
    return place.write(partial(claims.renew, claim=place.claim(), lease_seconds=60))


def fail(place: Place) -> Callable[[], None]:
    claim, storage = place.claim(), open_storage(place.settings)

    def with_report(session: Session) -> None:
        products = store({"report.json": place.out / "report.json"}, storage)
        endings.fail(session, claim, describe_failure("internal_error"), products)

    return place.write(with_report)


def try_again(place: Place) -> Callable[[], None]:
    return place.write(partial(endings.fail, claim=place.claim(), failure=describe_failure("storage_full")))


def release(place: Place) -> Callable[[], None]:
    return place.write(partial(endings.release, claim=place.claim()))


def recover(place: Place) -> Callable[[], None]:
    with connected(place.settings) as sessions, sessions() as session:
        assert claims.claim(session, "cpu", "first", lease_seconds=-1)
    return place.write(reconciler.recover)


def remove_stale(place: Place) -> Callable[[], None]:
    folder = place.settings.scratch_dir / place.ids["job"] / "1"
    (folder / "out").mkdir(parents=True)
    (folder / "out" / "model.pt2").touch()

    def run() -> None:
        assert scratch.remove_stale(place.settings.scratch_dir) == 1

    return run


def collect_garbage(place: Place) -> Callable[[], None]:
    storage = open_storage(place.settings)
    storage.put_file(place.archive)  # no row names it
    return place.write(lambda session: storage.collect_garbage(-1, partial(referenced, session)))


@dataclass(frozen=True)
class Operation:
    """What to do, and in which thread its effects are counted (None: in all)."""

    prepare: Callable[[Place], Callable[[], None]]
    thread: str | None = "MainThread"


OPERATIONS = {
    "upload": Operation(upload, None),
    "submit": Operation(submit, None),
    "cancel": Operation(cancel, None),
    "delete": Operation(delete, None),
    "look": Operation(look),
    "beat": Operation(look, "heartbeat"),
    "renew": Operation(renew),
    "fail": Operation(fail),
    "try_again": Operation(try_again),
    "release": Operation(release),
    "recover": Operation(recover),
    "remove_stale": Operation(remove_stale),
    "collect_garbage": Operation(collect_garbage),
}
