"""Traces: where time went, from a request through the claim to each phase of its job, for an OpenTelemetry receiver.

Off, and nothing is imported for it, unless ZEROPOINT_OTLP_ENDPOINT is set. A job's row keeps the place in the
trace of the request that submitted it, and each attempt continues there. A job's program sends nothing: its phases are
spans of the worker that watches it. Times are this machine's, since a trace is no row.
"""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from app import VERSION
from app.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span as OpenSpan

Value = str | int | float | bool
Kind = Literal["internal", "server", "consumer"]

SEND_SECONDS = 2.0
"""For a receiver to take what there is; a worker waits for it after each attempt, once that is recorded."""
MOST_SPANS = 2048
"""That a worker keeps until an attempt ends; an attempt has about ten."""
HEADER = "traceparent"
"""Of W3C's Trace Context: `00-<trace>-<span>-<flags>`."""


class Span(Protocol):
    """A piece of time in a trace."""

    def rename(self, name: str) -> None:
        """Give it another name, once more is known."""

    def note(self, **attributes: Value | None) -> None:
        """Add attributes; None is left out."""

    def fail(self, why: str) -> None:
        """Say that it failed, by no fault of a user."""


class NoSpan:
    """What there is while traces are off."""

    def rename(self, name: str) -> None: ...

    def note(self, **attributes: Value | None) -> None: ...

    def fail(self, why: str) -> None: ...


@dataclass(frozen=True)
class SentSpan:
    """A span that will be sent."""

    inner: "OpenSpan"

    def rename(self, name: str) -> None:
        self.inner.update_name(name)

    def note(self, **attributes: Value | None) -> None:
        self.inner.set_attributes(_named(attributes))

    def fail(self, why: str) -> None:
        from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415 - an extra

        self.inner.set_status(Status(StatusCode.ERROR, why))


log = logging.getLogger(__name__)

_NO_SPAN = NoSpan()
_provider: "TracerProvider | None" = None


def configure(settings: Settings, service: str, *, in_background: bool) -> None:
    """Send the spans of this process to the receiver that the settings name; do nothing where they name none.

    In the background a thread sends them as they end; else `send` does, and no thread is started. Raises SystemExit
    where the extra `traces` is not installed.
    """
    global _provider
    if settings.otlp_endpoint is None:
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - an extra
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError as error:
        raise SystemExit(
            "This process does not start: ZEROPOINT_OTLP_ENDPOINT is set, and the packages for traces are not"
            " installed. pip install '.[traces]' in the checkout, or leave the setting out."
        ) from error
    endpoint = settings.otlp_endpoint.rstrip("/") + "/v1/traces"
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # a line for each try, while a receiver is away
    exporter = _telling(OTLPSpanExporter(endpoint=endpoint, timeout=SEND_SECONDS))
    resource = Resource.create({"service.name": service, "service.version": VERSION})
    _provider = TracerProvider(resource=resource, shutdown_on_exit=False)  # which would wait without an end
    _provider.add_span_processor(BatchSpanProcessor(exporter) if in_background else _kept(exporter))


@contextmanager
def span(
    name: str, *, parent: str | None = None, kind: Kind = "internal", **attributes: Value | None
) -> Iterator[Span]:
    """Yield a span that lasts as long as the block; those within are its children.

    `parent`: a `traceparent`, of another process; without one the parent is the span around this one, if any.
    """
    if _provider is None:
        yield _NO_SPAN
        return
    from opentelemetry.trace import SpanKind  # noqa: PLC0415 - an extra

    tracer, context = _provider.get_tracer("zeropoint"), _context(parent)
    with tracer.start_as_current_span(
        name,
        context,
        SpanKind[kind.upper()],
        _named(attributes),
        record_exception=False,  # its text may hold what a user sent
        set_status_on_exception=False,
    ) as inner:
        yield SentSpan(inner)


def past(name: str, began: float, seconds: float, *, parent: str | None = None, **attributes: Value | None) -> None:
    """Add a span that is over: when it began by the monotonic clock, and how long it took."""
    if _provider is None:
        return
    start = time.time_ns() - int((time.monotonic() - began) * 1e9)
    tracer = _provider.get_tracer("zeropoint")
    inner = tracer.start_span(name, _context(parent), attributes=_named(attributes), start_time=start)
    inner.end(start + int(seconds * 1e9))


def traceparent() -> str | None:
    """Return the place of the current span, for another process to continue there; None where there is none."""
    if _provider is None:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415 - an extra

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get(HEADER)


def trace_id() -> str | None:
    """Return the id of the current trace, for lines of the log; None where there is none."""
    place = traceparent()
    return place.split("-")[1] if place else None


def send() -> None:
    """Send what has ended; what the receiver does not take in time is dropped."""
    if _provider is not None:
        _provider.force_flush(int(SEND_SECONDS * 1000))


def close() -> None:
    """Send what has ended, and send nothing more; what the receiver does not take in time is dropped."""
    global _provider
    provider, _provider = _provider, None
    if provider is not None:
        thread = threading.Thread(target=provider.shutdown, daemon=True)
        thread.start()
        thread.join(SEND_SECONDS)


def _context(parent: str | None) -> "Context | None":
    """Return the context of a `traceparent`; None, which is the current one, where there is none or it is not valid."""
    from opentelemetry.trace import get_current_span  # noqa: PLC0415 - an extra
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

    if parent is None:
        return None
    context = TraceContextTextMapPropagator().extract({HEADER: parent})
    return context if get_current_span(context).get_span_context().is_valid else None


def _named(attributes: dict[str, Value | None]) -> dict[str, Value]:
    """Return attributes under the names that they have in a trace: `job_id` is `zeropoint.job_id`."""
    return {f"zeropoint.{name}": value for name, value in attributes.items() if value is not None}


def _telling(exporter: "SpanExporter") -> "SpanExporter":
    """Return an exporter that logs one line when the receiver is gone, and one when it is back."""
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult  # noqa: PLC0415 - an extra

    class Telling(SpanExporter):
        def __init__(self) -> None:
            self._gone = False

        def export(self, spans: "Sequence[ReadableSpan]") -> SpanExportResult:
            result = exporter.export(spans)
            gone = result is not SpanExportResult.SUCCESS
            if gone != self._gone:
                self._gone = gone
                log.warning("the receiver of traces %s", "does not answer: spans are dropped" if gone else "is back")
            return result

        def shutdown(self) -> None:
            exporter.shutdown()

    return Telling()


def _kept(exporter: "SpanExporter") -> "SpanProcessor":
    """Return what keeps spans until they are sent. A process that forks others can't have a thread for it."""
    from opentelemetry.sdk.trace import SpanProcessor  # noqa: PLC0415 - an extra

    class Kept(SpanProcessor):
        def __init__(self) -> None:
            self._ended: list[ReadableSpan] = []

        def on_end(self, span: "ReadableSpan") -> None:
            if len(self._ended) < MOST_SPANS and span.context is not None and span.context.trace_flags.sampled:
                self._ended.append(span)

        def force_flush(self, timeout_millis: int = 0) -> bool:  # noqa: ARG002 - the exporter keeps its own time
            ended, self._ended = self._ended, []
            if ended:
                exporter.export(ended)
            return True

        def shutdown(self) -> None:
            self.force_flush()
            exporter.shutdown()

    return Kept()
