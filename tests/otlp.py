"""A receiver of traces on loopback: OTLP over HTTP, decoded by the protocol's own messages."""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Received:
    """One span: ids in hex, times in seconds since 1970."""

    name: str
    service: str
    trace: str
    span: str
    parent: str
    kind: int
    began: float
    ended: float
    failed: bool
    attributes: Mapping[str, Any]
    said: str
    """Everything else, as text: events, links, what the status says."""


@dataclass
class Receiver:
    """What came so far; `pause` holds every answer back."""

    address: str = ""
    spans: list[Received] = field(default_factory=list)
    pause: threading.Event = field(default_factory=threading.Event)

    def of(self, trace: str) -> list[Received]:
        """Return the spans of a trace, by when they began."""
        return sorted((span for span in self.spans if span.trace == trace), key=lambda span: span.began)

    def where(self, **attributes: Any) -> list[Received]:
        """Return the spans with these attributes of ours."""
        wanted = {f"zeropoint.{name}": value for name, value in attributes.items()}
        return [span for span in self.spans if wanted.items() <= span.attributes.items()]


def _decoded(body: bytes) -> Iterator[Received]:
    request = ExportTraceServiceRequest.FromString(body)
    for resource in request.resource_spans:
        service = _values(resource.resource.attributes)["service.name"]
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Received(
                    span.name,
                    service,
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    span.kind,
                    span.start_time_unix_nano / 1e9,
                    span.end_time_unix_nano / 1e9,
                    span.status.code == 2,
                    _values(span.attributes),
                    f"{span.events} {span.links} {span.status.message}",
                )


def _values(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


@contextmanager
def receiver() -> Iterator[Receiver]:
    """Run a receiver; yield what it gets."""
    found = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.path == "/v1/traces"
            while found.pause.is_set():
                time.sleep(0.05)
            found.spans += _decoded(body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    found.address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield found
    finally:
        found.pause.clear()
        server.shutdown()
        server.server_close()
        thread.join()
