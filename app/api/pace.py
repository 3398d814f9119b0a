"""Requests keep pace: they begin in turn, a body comes in time, and while the process stops, none is waited for.

A body that trickles holds a connection and a file just as one that never comes. So the time that it is waited for
begins again with every LEAST_BYTES, not with every byte.
"""

from time import monotonic

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.addresses import PROBES, path_of
from app.api.dependencies import Services
from app.api.errors import BodyRefused, refusal_answer
from app.api.stopping import Stopping
from app.api.turnstile import Turnstile
from app.errors import ServiceError, TooSlow, Unavailable

LEAST_BYTES = 4096
"""Of a body or an answer, in `idle_seconds`: 140 bytes a second, unless it ends before."""


class Pace:
    """The middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._turnstile = Turnstile()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if path_of(scope) not in PROBES:
            await self._turnstile.pass_through()
        stopping: Stopping = scope["app"].state.stopping
        services: Services = scope["app"].state.services
        refusal = _refusal(scope, stopping)
        if refusal is not None:
            await refusal_answer(scope["state"]["request_id"], refusal, close=True)(scope, receive, send)
            return
        await self._app(scope, _Body(receive, services.settings.idle_seconds, stopping), send)


class _Body:
    """A `receive` that waits for the body's next part while the body keeps pace."""

    def __init__(self, receive: Receive, seconds: float, stopping: Stopping) -> None:
        self._receive = receive
        self._seconds = seconds
        self._stopping = stopping
        self._ended = False
        self._left = seconds
        self._bytes = 0

    async def __call__(self) -> Message:
        if self._ended:
            return await self._receive()
        message: Message | None = None
        began = monotonic()
        with self._stopping.wait(self._left):
            message = await self._receive()
        if message is None:
            raise BodyRefused(stops() if self._stopping.begun else _late(self._seconds))
        self._ended = not message.get("more_body", False)
        # Only the time counts in which it is waited for: that of writing to disk is ours.
        self._left -= monotonic() - began
        self._bytes += len(message.get("body", b""))
        if self._bytes >= LEAST_BYTES:
            self._left, self._bytes = self._seconds, 0
        return message


def stops() -> Unavailable:
    """Return the refusal of a process that stops."""
    detail = "This process stops, and takes no more work."
    return Unavailable("stopping", detail, "Send the request again: another process may answer.", retry_after=2)


def _refusal(scope: Scope, stopping: Stopping) -> ServiceError | None:
    path = path_of(scope)
    if stopping.begun and path != "/healthz":
        return stops()
    if scope["state"].get("too_many") and path not in PROBES:  # who probes decides whether this process is restarted
        detail = "There are more connections than this process may have."
        return Unavailable("busy", detail, "Ask again in a moment, over one connection that is kept.", retry_after=5)
    return None


def _late(seconds: float) -> TooSlow:
    return TooSlow(
        "body_too_slow",
        f"Less than {LEAST_BYTES} bytes of the body came in {seconds:g} s.",
        "Send it again over a faster connection, or ask the operator to raise ZEROPOINT_IDLE_SECONDS.",
    )
