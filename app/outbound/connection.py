"""Connections to checked addresses alone, which end by a time."""

import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any

import httpcore

from app.outbound.addresses import is_allowed
from app.outbound.rules import Rules, TargetAway, refused

MOST_ADDRESSES = 4
"""Of one name that are tried, in the order of the answer."""
CHUNK = 2**16


class CheckedBackend(httpcore.NetworkBackend):
    """Connects to the checked addresses of a name, until a time."""

    def __init__(self, rules: Rules, until: float) -> None:
        self._rules = rules
        self._until = until

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002 - as httpcore calls it
        local_address: str | None = None,  # noqa: ARG002
        socket_options: Iterable[Any] | None = None,  # noqa: ARG002
    ) -> httpcore.NetworkStream:
        """Resolve the name, check all that it has, and connect to one of them. Raises OutboundError."""
        found = _resolve(host, port, self._left())
        if not all(is_allowed(ip_address(sockaddr[0].partition("%")[0]), self._rules.private) for _, sockaddr in found):
            raise refused(host)
        for family, sockaddr in found[:MOST_ADDRESSES]:
            seconds = self._left()
            connection = socket.socket(family, socket.SOCK_STREAM)
            try:
                connection.settimeout(seconds)
                connection.connect(sockaddr)
            except OSError:
                connection.close()
                continue
            return _Stream(connection, host, self._until)
        raise TargetAway(f"Nothing accepts connections at port {port} of {host}.")

    def _left(self) -> float:
        return min(self._rules.idle_seconds, _left(self._until))


class _Stream(httpcore.NetworkStream):
    """A connection whose every step ends by a time, also where the other side moves a byte now and then."""

    def __init__(self, connection: socket.socket, host: str, until: float) -> None:
        self._socket = connection
        self._host = host
        self._until = until

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Return what came, b"" at the end. Raises TargetAway."""
        with self._bounded(timeout):
            return self._socket.recv(max_bytes)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send all of it. Raises TargetAway."""
        rest = memoryview(buffer)
        while rest:
            with self._bounded(timeout):
                rest = rest[self._socket.send(rest[:CHUNK]) :]

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        """Return the same connection inside TLS, with a certificate for the host. Raises TargetAway."""
        with self._bounded(timeout):
            return _Stream(
                ssl_context.wrap_socket(self._socket, server_hostname=server_hostname), self._host, self._until
            )

    def get_extra_info(self, info: str) -> Any:
        """Return nothing: there is no second request on a connection, so nobody asks whether it still lives."""

    @contextmanager
    def _bounded(self, timeout: float | None) -> Iterator[None]:
        left = _left(self._until)
        self._socket.settimeout(left if timeout is None else min(timeout, left))
        try:
            yield
        except ssl.SSLCertVerificationError as error:
            self._socket.close()
            raise TargetAway(f"The certificate of {self._host} does not hold.") from error
        except TimeoutError as error:
            self._socket.close()
            raise TargetAway(f"{self._host} does not answer in time.") from error
        except OSError as error:
            self._socket.close()
            raise TargetAway(f"The connection to {self._host} was cut.") from error


def _resolve(host: str, port: int, seconds: float) -> list[tuple[socket.AddressFamily, Any]]:
    """Return family and socket address of all that a name has. Raises TargetAway.

    The system's resolver takes as long as it likes, so it runs in a thread that nobody waits for.
    """
    found: Future[list[Any]] = Future()

    def look() -> None:
        try:
            found.set_result(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, ValueError) as error:  # a name that can't be one is a ValueError
            found.set_exception(error)

    threading.Thread(target=look, name="resolve", daemon=True).start()
    try:
        return [(entry[0], entry[4]) for entry in found.result(seconds)]
    except TimeoutError:
        raise TargetAway(f"The name {host} was not resolved in time.") from None
    except (OSError, ValueError):
        raise TargetAway(f"The name {host} has no address.") from None


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TargetAway("The call took longer than it may.")
    return left
