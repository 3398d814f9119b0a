"""Requests keep pace: they begin in turn, a body comes in time, and while the process stops, none is waited for.

A body that trickles holds a connection and a file just as one that never comes. So the time that it is waited for
begins again with every LEAST_BYTES, not with every byte.
"""

from time import monotonic

from anyio import CancelScope
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.addresses import PROBES, path_of
from app.api.dependencies import Services
from app.api.errors import BodyRefused, refusal_answer
from app.api.stopping import Stopping
from app.api.turnstile import Turnstile
from app.errors import ServiceError, TooSlow, Unavailable

LEAST_BYTES = 4096
"""Of a body or an answer, in `idle_seconds`: 140 bytes a second, unless it ends before."""

RATED_SECONDS = 2.0
"""That a body is waited for, until its speed is known."""


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
        body = Body(receive, services.settings.idle_seconds, stopping)
        scope["state"]["body"] = body
        await self._app(scope, body, send)


class Body:
    """A `receive` that waits for the body's next part while the body keeps pace."""

    def __init__(self, receive: Receive, seconds: float, stopping: Stopping) -> None:
        self._receive = receive
        self._seconds = seconds
        self._stopping = stopping
        self._ended = False
        self._left = seconds
        self._bytes = 0
        self._waited = 0.0
        self._since: float | None = None
        self._all_bytes = 0
        self._gives_way = False
        self._waiting: CancelScope | None = None

    @property
    def rate(self) -> float | None:
        """Return how many bytes come in a second; None where all have come, or it was waited for a moment only."""
        waited = self._waited + (0 if self._since is None else monotonic() - self._since)
        return None if self._ended or waited < RATED_SECONDS else self._all_bytes / waited

    def give_way(self) -> None:
        """Refuse the rest: others need the place that it holds."""
        self._gives_way = True
        if self._waiting is not None:
            self._waiting.cancel()

    async def __call__(self) -> Message:
        if self._ended:
            return await self._receive()
        message: Message | None = None
        began = self._since = monotonic()
        if not self._gives_way:
            with self._stopping.wait(self._left) as self._waiting:
                message = await self._receive()
        self._since = None
        if message is None:
            raise BodyRefused(self._refusal())
        self._ended = not message.get("more_body", False)
        # Only the time counts in which it is waited for: that of writing to disk is ours.
        self._waited += monotonic() - began
        self._left -= monotonic() - began
        self._bytes += len(message.get("body", b""))
        self._all_bytes += len(message.get("body", b""))
        if self._bytes >= LEAST_BYTES:
            self._left, self._bytes = self._seconds, 0
        return message

    def _refusal(self) -> ServiceError:
        if self._stopping.begun:
            return stops()
        return _slowest() if self._gives_way else _late(self._seconds)


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


def _slowest() -> Unavailable:
    detail = "Others need the place of this body, which came slower than all others."
    return Unavailable("busy", detail, "Send it again later, or over a faster connection.", retry_after=30)


def _late(seconds: float) -> TooSlow:
    return TooSlow(
        "body_too_slow",
        f"Less than {LEAST_BYTES} bytes of the body came in {seconds:g} s.",
        "Send it again over a faster connection, or ask the operator to raise ZEROPOINT_IDLE_SECONDS.",
    )
