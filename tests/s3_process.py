"""moto's S3 server with a door for tests: `python -m tests.s3_process PORT`.

POST /_tests/age makes the objects below a name older, POST /_tests/away has the server fail, in one way, for a while
or for some requests.
"""

import json
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any

from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.s3.models import s3_backends
from werkzeug.serving import WSGIRequestHandler, make_server

DOOR = "/_tests/"
HANG_SECONDS = 20

Environ = dict[str, Any]
Answer = Iterable[bytes]


class Door:
    """moto's application behind this one."""

    def __init__(self) -> None:
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._how = ""
        self._until = 0.0
        self._times = 0
        self._methods = ""

    def __call__(self, environ: Environ, start: Callable[..., Any]) -> Answer:
        if environ["PATH_INFO"].startswith(DOOR):
            order = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
            getattr(self, environ["PATH_INFO"].removeprefix(DOOR))(**order)
            start("200 OK", [("Content-Length", "0")])
            return []
        how = self._failure(environ["REQUEST_METHOD"])
        if how == "cut":
            return self._cut(environ, self._moto(environ, start))
        if how == "hang":
            time.sleep(HANG_SECONDS)
        if how == "lost":  # it is done, and nobody hears of it
            b"".join(self._moto(environ, lambda *_: None))
        if how in ("hang", "lost", "unheard"):
            return self._cut(environ, [])
        if not how:
            answer: Answer = self._moto(environ, start)
            return answer
        status, _, code = how.partition(" ")
        body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start(f"{status} {code}", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [body]

    def age(self, bucket: str, below: str, seconds: float) -> None:
        """Let time pass for the objects and parts whose names begin so."""
        found = s3_backends[DEFAULT_ACCOUNT_ID]["aws"].buckets[bucket]
        stored = [key for key in found.keys.values() if key.name.startswith(below)]
        uploads = [upload for upload in found.multiparts.values() if upload.key_name.startswith(below)]
        for one in [*stored, *(part for upload in uploads for part in upload.parts.values())]:
            one.last_modified -= timedelta(seconds=seconds)

    def away(self, how: str, seconds: float = 0, times: int = 0, methods: str = "") -> None:
        """Fail for so long, or so many times, with an answer such as `503 SlowDown`, or without one."""
        self._how, self._times, self._methods = how, times, methods
        self._until = time.monotonic() + seconds

    def _failure(self, method: str) -> str:
        if self._methods and method not in self._methods.split():
            return ""
        if self._times > 0:
            self._times -= 1
            return self._how
        return self._how if time.monotonic() < self._until else ""

    @staticmethod
    def _cut(environ: Environ, answer: Answer) -> Iterator[bytes]:
        """Send a part of an answer, and close the connection."""
        body = b"".join(answer)
        yield from [body[: len(body) // 2]] if body else []
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        raise ConnectionAbortedError


class Quiet(WSGIRequestHandler):
    """Serves without a word about each request; connections are kept, as by a real server."""

    protocol_version = "HTTP/1.1"

    def log(self, type: str, message: str, *args: Any) -> None:
        """Say nothing."""


def main(port: int) -> None:
    """Serve until this process is ended."""
    server = make_server("127.0.0.1", port, Door(), threaded=True, request_handler=Quiet)
    server.daemon_threads = True  # type: ignore[attr-defined]
    server.serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]))
