"""A wire to PostgreSQL that can be cut while a transaction commits."""

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal

from sqlalchemy import URL, make_url

COMMIT = b"COMMIT\0"
Cut = Literal["before", "after"]
"""The server gets the COMMIT or not; the client never hears of it."""


class Wire:
    """Passes bytes on; `cut` says what happens to the next COMMIT."""

    def __init__(self, server: str) -> None:
        self.cut: Cut | None = None
        self.cuts = 0
        self.connections: list[threading.Thread] = []
        self._server = server

    def accept_for_ever(self, listener: socket.socket) -> None:
        with suppress(OSError):  # it was closed
            while True:
                client, _ = listener.accept()
                thread = threading.Thread(target=self._connect, args=(client,))
                thread.start()
                self.connections.append(thread)

    def _connect(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server, suppress(OSError):  # it was cut, or the server is away
            server.connect(self._server)
            self._pass_on(client, server)

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        """Until one end is closed, or this is cut."""
        cut: Cut | None = None
        while True:
            ready, _, _ = select.select([client, server], [], [])
            source, target = (client, server) if client in ready else (server, client)
            chunk = source.recv(1 << 16)
            if not chunk or (source is server and cut):
                return
            if source is client and COMMIT in chunk:
                cut = self._on_commit()
            if cut == "before":
                return
            target.sendall(chunk)

    def _on_commit(self) -> Cut | None:
        cut, self.cut = self.cut, None
        self.cuts += cut is not None
        return cut


@contextmanager
def wire_to(database_url: str) -> Iterator[tuple[Wire, URL]]:
    """A wire to a server that listens on a socket in a folder, and the URL at its near end."""
    url = make_url(database_url)
    folder, port = url.query["host"], url.port or 5432
    with socket.create_server(("127.0.0.1", 0)) as listener:
        wire = Wire(f"{folder}/.s.PGSQL.{port}")
        thread = threading.Thread(target=wire.accept_for_ever, args=(listener,))
        thread.start()
        near = url.set(host="127.0.0.1", port=listener.getsockname()[1], query={})
        yield wire, near
        listener.shutdown(socket.SHUT_RDWR)
        for one in (thread, *wire.connections):  # a client that is left open would be waited for
            one.join(timeout=10)
