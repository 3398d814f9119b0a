"""A connection of the API: it ends when it keeps everyone waiting for a request's head, or for what nobody reads.

uvicorn itself waits for ever. `look` is called again and again, and ends what has not moved for too long. The bodies
of requests are the application's (`pace`): it can answer with a reason, and remove what came so far.
"""

import asyncio
import secrets
import socket
import struct
import sys
import termios
from dataclasses import dataclass
from fcntl import ioctl
from http import HTTPStatus
from itertools import islice
from typing import Any, Literal

import h11
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from app.api.errors import refusal_answer
from app.api.framing import BoundedHttp, TooFragmented
from app.api.pace import LEAST_BYTES, stops
from app.errors import Malformed, ServiceError, TooSlow
from app.settings import Settings

SPARE = 64
"""Connections beyond the limit that are read, so that probes get through and others an answer."""
ROOM_SHARE = 100
"""One part in so many of all connections makes room at once: looking for those takes as long as for a single one."""
BYTES_ACKED = 120
"""Where Linux's struct tcp_info has tcpi_bytes_acked."""

Waits = Literal["head", "rest", "reader"]
"""For a request's head; for the rest of a body whose request is answered already; for a client to read its answer."""


@dataclass(frozen=True)
class Waiting:
    """What a connection waits for; equal as long as nothing moves."""

    what: Waits
    request: int
    progress: int = 0


class ApiConfig(Config):
    """uvicorn's settings, and ours."""

    settings: Settings


class Connection(H11Protocol):
    """uvicorn's, with limits."""

    def __init__(
        self,
        config: ApiConfig,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.conn = BoundedHttp()
        self._settings = config.settings
        self._waiting: Waiting | None = None
        self._since = self.loop.time()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        self.look()
        most = self._settings.connections
        if len(self.connections) > most and not self._make_room():
            self.app_state = {**self.app_state, "too_many": True}
        if len(self.connections) > most + SPARE:
            transport.abort()

    def look(self) -> None:
        """End the connection if it has waited too long."""
        waiting = self._waits_for()
        if waiting != self._waiting:
            self._waiting, self._since = waiting, self.loop.time()
        if waiting is not None and self.waited > self._most_seconds(waiting.what):
            self._end(waiting.what)

    @property
    def waited(self) -> float:
        """Return for how many seconds nothing has moved."""
        return self.loop.time() - self._since

    @property
    def is_idle(self) -> bool:
        """Return whether no request is here as a whole."""
        waiting = self._waits_for()
        return waiting is not None and waiting.what == "head" and not self.transport.is_closing()

    @property
    def has_unread(self) -> bool:
        """Return whether something has come that this process has not read yet."""
        sock: Any = self.transport.get_extra_info("socket")
        return ioctl(sock.fileno(), termios.FIONREAD, bytes(4)) != bytes(4)

    def give_up(self) -> None:
        """Answer the request that is worked on, whatever becomes of that: this process ends."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            return
        if cycle.response_started:
            self.transport.abort()
        else:
            cycle.disconnected = True  # what the application sends later is dropped
            self._refuse(stops(), cycle.scope["state"].get("request_id"))

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's words are not ours
        """Answer what is no HTTP, or has too many pieces; called while the error is handled."""
        error = sys.exception()
        detail, remedy = "This is not a valid HTTP request.", "Speak HTTP/1.1; a proxy in front must not change bodies."
        if isinstance(error, TooFragmented):
            detail, remedy = error.detail, error.remedy
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True  # its body will never be whole
            cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._refuse(Malformed("request_unreadable", detail, remedy))
        else:
            self.transport.abort()

    def _waits_for(self) -> Waiting | None:
        """Return None while a request is worked on."""
        cycle = self.cycle
        if self.transport.get_write_buffer_size():
            return Waiting("reader", id(cycle), self._acknowledged() // LEAST_BYTES)
        if cycle is not None and not cycle.response_complete:
            return None
        return Waiting("rest" if self.conn.their_state is h11.SEND_BODY else "head", id(cycle))

    def _most_seconds(self, what: Waits) -> float:
        return self._settings.head_seconds if what == "head" else self._settings.idle_seconds

    def _acknowledged(self) -> int:
        """Return how many bytes the client's system has taken; less what waits here where the system does not tell."""
        try:
            sock: Any = self.transport.get_extra_info("socket")
            facts = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, BYTES_ACKED + 8)
            acknowledged: int = struct.unpack_from("Q", facts, BYTES_ACKED)[0]
        except (OSError, struct.error):
            return -self.transport.get_write_buffer_size()
        return acknowledged

    def _make_room(self) -> bool:
        """End those connections that have waited longest without a request; False when each has one."""
        idle = [one for one in self.connections if isinstance(one, Connection) and one is not self and one.is_idle]
        idle.sort(key=lambda one: one.waited, reverse=True)
        silent = islice((one for one in idle if not one.has_unread), max(1, self._settings.connections // ROOM_SHARE))
        ended = list(silent)
        for one in ended:
            one.transport.abort()
            self.connections.discard(one)
        return bool(ended)

    def _end(self, what: Waits) -> None:
        if what == "head" and self.conn.trailing_data[0] and not self.transport.is_closing():
            seconds = self._settings.head_seconds
            detail = f"The head of the request was not here after {seconds:g} s."
            self._refuse(TooSlow("head_too_slow", detail, "Send it at once."))
        else:
            self.transport.abort()

    def _refuse(self, refusal: ServiceError, request_id: str | None = None) -> None:
        """Answer without the application, and close."""
        request_id = request_id or f"req_{secrets.token_hex(12)}"
        answer = refusal_answer(request_id, refusal, close=True)
        status, headers = HTTPStatus(answer.status_code), [*answer.raw_headers, (b"x-request-id", request_id.encode())]
        for event in (
            h11.Response(status_code=status, headers=headers, reason=status.phrase),
            h11.Data(data=bytes(answer.body)),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
