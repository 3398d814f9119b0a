"""A real HTTP server on loopback that webhooks are sent to: it keeps what came, and answers as a test says."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks import Webhook

Answer = Callable[["Message"], int]


@dataclass(frozen=True)
class Message:
    """One request."""

    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    def verified(self, secret: str) -> dict[str, Any]:
        """Return the content, by the package that receivers use. Raises WebhookVerificationError."""
        content: dict[str, Any] = Webhook(secret).verify(self.body, self.headers)
        return content


@dataclass
class Receiver:
    """What came so far, and how the next request is answered."""

    url: str
    answer: Answer = lambda _message: 204
    messages: list[Message] = field(default_factory=list)
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def ids(self) -> list[str]:
        return [message.id for message in self.messages]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients are killed here."""


@contextmanager
def receiver(answer: Answer = lambda _message: 204) -> Iterator[Receiver]:
    """Run one."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            message = Message({name.lower(): value for name, value in self.headers.items()}, body)
            here.messages.append(message)
            self.send_response(here.answer(message))
            for name, value in here.extra.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    with _Server(("127.0.0.1", 0), Handler) as server:
        here = Receiver(f"http://127.0.0.1:{server.server_port}/hook", answer)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield here
        server.shutdown()
        thread.join()
