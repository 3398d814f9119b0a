"""Gates are admitted, and end with their clients: a frozen gate stands for one that takes long."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from app.intake.confined import NICE
from app.main import create_services
from app.settings import Settings
from tests.factories import safetensors
from tests.servers import wait_until
from tests.service.processes import command_line, descendants, is_running

DATA = safetensors(x=("F32", [4, 3]))

frozen_gates: set[int] = set()


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    """Leave no frozen gate to the tests that follow."""
    yield
    for gate in frozen_gates & gates():
        os.kill(gate, signal.SIGKILL)
    frozen_gates.clear()


pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def gates() -> set[int]:
    """The processes of gates that this process, which serves the API, has started."""
    found = set()
    for pid in descendants(os.getpid()):
        with suppress(FileNotFoundError, ProcessLookupError):
            if "sandbox.child" in command_line(pid) and is_running(pid):
                found.add(pid)
    return found


@contextmanager
def serving(served: httpx.Client, settings: Settings, **limits: int) -> Iterator[httpx.Client]:
    services = create_services(settings.model_copy(update=limits))
    served.app.state.services = services  # type: ignore[attr-defined]
    yield served
    services.engine.dispose()
    services.celery.close()


def send(client: httpx.Client, body: bytes = DATA, announced: int = len(DATA)) -> socket.socket:
    """Begin an upload on a connection of its own."""
    connection = socket.create_connection(("127.0.0.1", client.base_url.port or 0), timeout=30)
    head = f"POST /v1/datasets?name=x HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {announced}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


def frozen(client: httpx.Client) -> tuple[socket.socket, int]:
    """Begin an upload whose gate has begun, and does nothing."""
    before = gates()
    connection = send(client)
    wait_until(lambda: bool(gates() - before))
    (gate,) = gates() - before
    os.kill(gate, signal.SIGSTOP)
    frozen_gates.add(gate)
    return connection, gate


def left(settings: Settings) -> list[Path]:
    return list((Path(settings.storage_url.removeprefix("file:")) / "tmp").iterdir())


def answer(connection: socket.socket) -> bytes:
    with connection, connection.makefile("rb") as file:
        return file.read()


def test_a_gate_ends_with_its_client_and_leaves_nothing(served: httpx.Client, settings: Settings) -> None:
    with serving(served, settings, gates=1, gate_queue=0) as client:
        connection, gate = frozen(client)
        assert client.post("/v1/datasets", content=DATA).status_code == 503
        connection.close()
        wait_until(lambda: not is_running(gate))
        wait_until(lambda: not left(settings))
        assert client.post("/v1/datasets", content=DATA).status_code == 201


def test_an_upload_that_waits_for_a_gate_ends_with_its_client(served: httpx.Client, settings: Settings) -> None:
    with serving(served, settings, gates=1, gate_queue=1) as client:
        connection, gate = frozen(client)
        waiting = send(client)
        wait_until(lambda: len(left(settings)) == 5)
        time.sleep(0.2)  # until its body was received, and it waits
        assert client.post("/v1/datasets", content=DATA).status_code == 503
        waiting.close()
        wait_until(lambda: len(left(settings)) == 3)  # of the frozen one: what came, what is to be kept, a folder
        os.kill(gate, signal.SIGCONT)
        assert answer(connection).startswith(b"HTTP/1.1 201 ")
        wait_until(lambda: not left(settings))


def test_an_upload_that_nobody_would_check_is_refused_before_its_first_byte(
    served: httpx.Client, settings: Settings
) -> None:
    with serving(served, settings, gates=1, gate_queue=0) as client:
        connection, _ = frozen(client)
        refused = send(client, body=b"", announced=2**30)
        head = refused.recv(2**16)
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: " in head.lower()
        for each in (refused, connection):
            each.close()
        wait_until(lambda: not gates())


def test_no_more_gates_run_than_are_admitted(served: httpx.Client, settings: Settings) -> None:
    with serving(served, settings, gates=2, gate_queue=10) as client:
        first = [frozen(client) for _ in range(2)]
        waiting = [send(client) for _ in range(3)]
        wait_until(lambda: len(left(settings)) >= 10)
        assert len(gates()) == 2
        for _, gate in first:
            os.kill(gate, signal.SIGCONT)
        for connection in (*(connection for connection, _ in first), *waiting):
            assert answer(connection).startswith(b"HTTP/1.1 201 ")


def test_a_gate_steps_back_for_those_that_answer(served: httpx.Client, settings: Settings) -> None:
    with serving(served, settings, gates=1) as client:
        connection, gate = frozen(client)
        assert os.getpriority(os.PRIO_PROCESS, gate) == min(os.getpriority(os.PRIO_PROCESS, 0) + NICE, 19)
        connection.close()
        wait_until(lambda: not is_running(gate))


def test_health_is_answered_beside_gates_that_hang(served: httpx.Client, settings: Settings) -> None:
    with serving(served, settings, gates=1, gate_queue=0) as client:
        connection, gate = frozen(client)
        for path in ("/healthz", "/readyz", "/metrics"):
            assert client.get(path, timeout=1).status_code in (200, 503)
        connection.close()
        wait_until(lambda: not is_running(gate))
