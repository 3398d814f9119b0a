"""Examines a service from the machine where this runs: what holds, what doesn't, and what to do about it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from platform import python_version
from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app import VERSION
from app.accounts import keys
from app.cli.commands import with_root
from app.database import clock, create_engine_for, schema_is_current, trouble_of
from app.jobs import queries
from app.jobs.queue import broker_answers, create_celery
from app.jobs.repository import workers_seen
from app.jobs.status import JobState
from app.jobs.workers import SEEN_SECONDS, live_devices
from app.memory import TooMuchPromised, plan_memory
from app.room import room_on
from app.settings import Settings, words_of
from app.storage import folder_of, open_storage

MOST_SECONDS_APART = 1.0
LEAST_FREE = 0.1
PACKAGES = ("torch", "onnxruntime", "transformers", "sqlalchemy", "fastapi", "celery")
MARKS = {True: "ok  ", False: "FAIL", None: "?   "}


@dataclass(frozen=True)
class Finding:
    """What was found of one part; `holds` is None where that can't be told, or where only some need it."""

    part: str
    holds: bool | None
    detail: str
    remedy: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{MARKS[self.holds]} {self.part:<12} {self.detail}{f' {self.remedy}' * (not self.holds)}"


def examine(settings: Settings, *, own_broker: bool = False) -> list[Finding]:
    """Look at every part. `own_broker`: the service runs a Redis of its own, whose address is not known here."""
    return [
        _versions(),
        _sandbox(settings),
        _memory(settings),
        *_disks(settings),
        _storage(settings),
        _broker(settings, own=own_broker),
        *_of_database(settings),
    ]


def _versions() -> Finding:
    found = {name: _version(name) for name in PACKAGES}
    words = ", ".join(f"{name} {number or 'missing'}" for name, number in found.items())
    detail = f"zeropoint {VERSION}, Python {python_version()}, {words}."
    return Finding("versions", bool(found["torch"]) or None, detail, "A worker needs torch: pip install '.[torch]'.")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _sandbox(settings: Settings) -> Finding:
    remedy = "docs/explanation/sandbox.md says what each layer needs."
    command = [sys.executable, "-P", "-m", "worker.self_test"]
    try:
        done = subprocess.run(command, env=with_root(dict(os.environ)), capture_output=True, timeout=90, check=True)
        layers: dict[str, bool] = json.loads(done.stdout)
    except (subprocess.SubprocessError, OSError, ValueError):
        return Finding("sandbox", False, "It could not be tested.", remedy)
    off = [name for name in words_of(settings.sandbox_require) if not layers.get(name)]
    words = ", ".join(f"{name} {'on' if on else 'off'}" for name, on in layers.items())
    return Finding("sandbox", not off, f"{words}.", f"Required and off: {', '.join(off)}. {remedy}")


def _memory(settings: Settings) -> Finding:
    try:
        return Finding("memory", True, f"{plan_memory(settings).check(api=True, worker=True)}.")
    except TooMuchPromised as error:
        return Finding("memory", False, str(error), "Lower the settings that it names, or use a larger machine.")


def _disks(settings: Settings) -> Iterator[Finding]:
    folders = {"scratch": settings.scratch_dir}
    if settings.storage_url.startswith("file:"):
        folders["blobs"] = folder_of(settings.storage_url)
    for name, folder in folders.items():
        existing = next((one for one in (folder, *folder.absolute().parents) if one.exists()), None)
        room = room_on(existing) if existing else None
        if room is None:
            yield Finding(f"disk {name}", None, "Its room is not known.")
            continue
        detail = f"{room.free / 2**30:.1f} of {room.size / 2**30:.1f} GiB are free."
        remedy = "Free some: zeropoint gc, ZEROPOINT_KEEP_JOBS_SECONDS, or a larger disk."
        yield Finding(f"disk {name}", room.free >= LEAST_FREE * room.size, detail, remedy)


def _storage(settings: Settings) -> Finding:
    remedy = "Check ZEROPOINT_STORAGE_URL, and that this user may write there."
    try:
        open_storage(settings).check()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        return Finding("storage", False, f"Blobs can't be written: {why}.", remedy)
    return Finding("storage", True, "Blobs can be written.")


def _broker(settings: Settings, *, own: bool) -> Finding:
    if own:
        return Finding("broker", None, "zeropoint serve has a Redis of its own; /readyz of the service says more.")
    celery = create_celery(settings)
    try:
        answers = broker_answers(celery)
    finally:
        celery.close()
    detail = "It answers." if answers else "It does not answer."
    return Finding("broker", answers, detail, "Start Redis, or check ZEROPOINT_BROKER_URL. No job is lost meanwhile.")


def _of_database(settings: Settings) -> list[Finding]:
    try:
        engine = create_engine_for(settings)
        try:
            with Session(engine) as session:
                return list(_looks(session, settings))
        finally:
            engine.dispose()
    except (SQLAlchemyError, OSError) as error:
        trouble = trouble_of(error)
        detail = f"It failed: {trouble.value if trouble else type(error).__name__}."
        return [Finding("database", False, detail, "Check ZEROPOINT_DATABASE_URL, and that the server runs.")]


def _looks(session: Session, settings: Settings) -> Iterator[Finding]:
    current = schema_is_current(session.connection())
    yield Finding("database", True, f"{session.get_bind().dialect.name} answers.")
    yield Finding("migrations", current, "All are applied." if current else "Some are missing.", MIGRATE)
    yield _clock(session)
    if current:
        yield _workers(session)
        yield _accounts(session, settings)


MIGRATE = "Run zeropoint migrate; a database that a newer version has used needs that version."


def _clock(session: Session) -> Finding:
    apart = abs((clock(session) - datetime.now(UTC)).total_seconds())
    detail = f"This machine and the database are {apart:.1f} s apart."
    remedy = "Set the clocks by NTP. The database's counts for leases; logs and files have this machine's."
    return Finding("clock", apart <= MOST_SECONDS_APART, detail, remedy)


def _workers(session: Session) -> Finding:
    live = live_devices(session)
    waiting = queries.count_by_state(session)[JobState.QUEUED]
    if not live:
        detail = f"No worker was seen in the last 30 seconds; {waiting} jobs wait."
        return Finding("worker", False, detail, "Start one: zeropoint worker. Its log says why one ended.")
    since = clock(session) - timedelta(seconds=SEEN_SECONDS)
    versions = {number for _, number, seen_at in workers_seen(session) if seen_at >= since}
    detail = f"Live: {', '.join(sorted(live))}, of version {', '.join(sorted(versions))}; {waiting} jobs wait."
    return Finding("worker", versions == {VERSION}, detail, f"This is version {VERSION}: upgrade the rest.")


def _accounts(session: Session, settings: Settings) -> Finding:
    if settings.auth != "on":
        detail = "They are off: whoever reaches the API may do everything."
        holds = None if settings.auth == "off" else False
        return Finding("accounts", holds, detail, "ZEROPOINT_AUTH=on asks for keys; zeropoint keys create makes one.")
    held = keys.count_holding(session)
    provider = f", and tokens of {settings.oidc_issuer}" if settings.oidc_issuer else ""
    remedy = "Nobody can call: make a key with zeropoint keys create."
    return Finding("accounts", bool(held or settings.oidc_issuer), f"They are on: {held} keys hold{provider}.", remedy)
