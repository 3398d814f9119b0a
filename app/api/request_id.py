"""The outermost layer: an id and a log line for each request, and an answer to an exception that has only the id."""

import logging
import re
import secrets
import time
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import logs, metrics, traces
from app.api.addresses import PROBES
from app.api.errors import internal_error

HEADER = "X-Request-ID"
MOST_PATH = 512
_PLAIN = re.compile(r"[A-Za-z0-9._-]{1,64}")

log = logging.getLogger(__name__)


class RequestId:
    """Takes the caller's X-Request-ID when it is plain, makes one otherwise, and returns it in every response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = Headers(scope=scope).get(HEADER, "")
        request_id = sent if _PLAIN.fullmatch(sent) else f"req_{secrets.token_hex(12)}"
        scope.setdefault("state", {})["request_id"] = request_id
        with logs.about(request_id=request_id), metrics.HTTP_AT_ONCE.track_inprogress():
            if scope["path"] in PROBES:
                await self._answer(scope, receive, send, request_id)
                return
            parent = Headers(scope=scope).get(traces.HEADER)
            with traces.span(scope["method"], parent=parent, kind="server", request_id=request_id) as span:
                logs.also(trace_id=traces.trace_id())
                status = await self._answer(scope, receive, send, request_id)
                _describe(span, scope, status)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> int:
        """Answer, and return the status: 0 where the client went away before."""
        began, status, sent_bytes = time.monotonic(), 0, 0
        answered: float | None = None

        async def send_with_id(message: Message) -> None:
            nonlocal status, sent_bytes, answered
            if message["type"] == "http.response.start":
                status, answered = message["status"], time.monotonic() - began
                MutableHeaders(scope=message)[HEADER] = request_id
            sent_bytes += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except ClientDisconnect:
            logs.also(outcome="the client went away")
        except Exception:
            log.exception("the request failed")
            if status:
                raise
            await internal_error(request_id)(scope, receive, send_with_id)
        finally:
            _count(scope, status, answered)
            _log_end(scope, status, time.monotonic() - began, sent_bytes)
        return status


def _describe(span: traces.Span, scope: Scope, status: int) -> None:
    route = scope["state"].get("route", metrics.ROUTELESS)
    span.rename(f"{metrics.method_label(scope['method'])} {route}")
    span.note(route=route, status=status)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        span.fail(str(status))


def _count(scope: Scope, status: int, seconds: float | None) -> None:
    """Count a request under its route; `seconds`: until its answer began, None where its client went away before."""
    route, method = scope["state"].get("route", metrics.ROUTELESS), metrics.method_label(scope["method"])
    metrics.HTTP_REQUESTS.labels(route, method, status).inc()
    if seconds is not None:
        metrics.HTTP_SECONDS.labels(route, method).observe(seconds)


def _log_end(scope: Scope, status: int, seconds: float, sent_bytes: int) -> None:
    """Log the line of a request. Probes, which come every second, are of interest only when something is wrong."""
    ids = {name: value for name, value in scope.get("path_params", {}).items() if name.endswith("_id")}
    quiet = scope["path"] in PROBES and status < HTTPStatus.BAD_REQUEST
    log.log(
        logging.DEBUG if quiet else logging.INFO,
        "request",
        extra=logs.fields(
            method=scope["method"],
            path=scope["path"][:MOST_PATH],
            status=status or None,
            seconds=round(seconds, 3),
            bytes=sent_bytes,
            client=(scope.get("client") or [None])[0],
            **ids,
        ),
    )
