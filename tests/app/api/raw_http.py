"""HTTP by hand, for clients that a library would not be: they stop in the middle, or don't read."""

import json
import socket
from dataclasses import dataclass
from typing import Any, Self

import httpx

READ_SECONDS = 60.0
"""Only what never happens takes as long."""


@dataclass(frozen=True)
class Answer:
    """All that came until the connection was closed; status 0 when nothing did."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        problem: dict[str, Any] = json.loads(self.body)
        assert self.headers["content-type"] == "application/problem+json"
        assert problem["status"] == self.status
        assert problem["request_id"].startswith("req_")
        code: str = problem["code"]
        return code


class RawClient:
    """One connection."""

    def __init__(self, address: str, *, receive_bytes: int | None = None) -> None:
        url = httpx.URL(address)
        self._socket = socket.socket()
        if receive_bytes is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self._socket.settimeout(READ_SECONDS)
        self._socket.connect((url.host, url.port))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def begin(self, method: str, path: str, content_length: int, content_type: str = "application/json") -> None:
        """Send a head, and nothing of the body."""
        lines = [f"{method} {path} HTTP/1.1", "Host: zeropoint", f"Content-Type: {content_type}"]
        self.send("\r\n".join([*lines, f"Content-Length: {content_length}", "", ""]).encode())

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def read(self) -> bytes:
        """Read what is there next; nothing when the other side has closed."""
        return self._socket.recv(2**16)

    def answer(self) -> Answer:
        """Read until the other side closes."""
        received = b""
        try:
            while chunk := self.read():
                received += chunk
        except ConnectionResetError:
            pass
        if not received:
            return Answer(0, {}, b"")
        head, _, body = received.partition(b"\r\n\r\n")
        status, *lines = head.decode().splitlines()
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return Answer(int(status.split()[1]), headers, body)
