"""Servers on loopback to import from: files, redirects, errors, and a hub that speaks Hugging Face's paths."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

LOOPBACK = "127.0.0.0/8"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass(frozen=True)
class Answer:
    """What is answered at a path."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Files:
    """A server: answers by path, and what was asked, with the token."""

    port: int
    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    """While it is not set, an answer stops in its middle."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def settings(self) -> dict[str, Any]:
        """What a service needs in order to import from here."""
        return {"import_hosts": self.address, "import_private_addresses": LOOPBACK, "hub_endpoint": self.address}

    def put(self, path: str, body: bytes, status: int = 200, **headers: str) -> str:
        """Answer so at a path, and return its address."""
        self.answers[path] = Answer(body, status, headers)
        return self.address + path

    def redirect(self, path: str, to: str) -> str:
        """Lead from a path to another address."""
        return self.put(path, b"", 302, Location=to)

    def put_repository(self, name: str, files: Mapping[str, bytes], revision: str = "main") -> None:
        """Offer a repository as a hub does; its large files are elsewhere, as a hub's are."""
        listed = [{"rfilename": file} for file in files]
        described = json.dumps({"id": name, "sha": COMMIT, "siblings": listed}).encode()
        self.put(f"/api/models/{name}/revision/{revision}", described)
        for file, data in files.items():
            path = f"/{name}/resolve/{COMMIT}/{file}"
            if file.endswith(".safetensors"):
                self.redirect(path, self.put(f"/cdn/{name}/{file}", data))
            else:
                self.put(path, data)


@contextmanager
def serving() -> Iterator[Files]:
    """Serve while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = unquote(self.path)
            files.asked.append((path, self.headers["Authorization"]))
            answer = files.answers.get(path, Answer(b"nothing", 404))
            self.send_response(answer.status)
            for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            half = len(answer.body) // 2
            self.wfile.write(answer.body[:half])
            self.wfile.flush()
            files.gate.wait(60)
            self.wfile.write(answer.body[half:])

        def log_message(self, format: str, *words: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        files = Files(server.server_address[1])
        files.gate.set()
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield files
        files.gate.set()
        server.shutdown()
        thread.join()
