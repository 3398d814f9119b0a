"""Server-sent events: a response that goes on until its end is known, its client goes, or this process stops."""

import logging
import math
import re
from collections.abc import Awaitable, Callable

from anyio import move_on_after
from fastapi import Response
from pydantic import BaseModel
from sqlalchemy.exc import SQLAlchemyError
from starlette.types import Receive, Scope, Send

from app.api.disconnects import ended_with_client
from app.api.stopping import Stopping
from app.errors import ServiceError

EVENT_STREAM = "text/event-stream"
HEARTBEAT_SECONDS = 15.0
"""Of silence, after which a comment is sent: proxies and clients end connections on which nothing moves."""
RETRY_MILLISECONDS = 2000
"""How long a browser waits before it connects again."""
LAST_SECONDS = 1.0
"""For the end of the response to be sent to a client that may not read any more."""

_UNWANTED = re.compile(r"(^|;)\s*q\s*=\s*0(\.0*)?\s*(;|$)")

HEARTBEAT = b": nothing happened\n\n"

log = logging.getLogger(__name__)

Write = Callable[[bytes], Awaitable[None]]


def frame(number: int, kind: str, body: BaseModel) -> bytes:
    """Return one event as it is sent: `number` is what the client sends as Last-Event-ID to go on behind it."""
    return f"id: {number}\nevent: {kind}\ndata: {body.model_dump_json()}\n\n".encode()


def asks_for_events(accept: str | None) -> bool:
    """Return whether an Accept header names the media type of server-sent events."""
    for media_range in (accept or "").lower().split(","):
        name, _, parameters = media_range.partition(";")
        if name.strip() == EVENT_STREAM:
            return not _UNWANTED.search(parameters)
    return False


class EventStream(Response):
    """Sends what `follow` writes, until that returns."""

    def __init__(self, follow: Callable[[Write], Awaitable[None]], stopping: Stopping) -> None:
        # Nobody keeps it, and proxies pass it on at once.
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(headers=headers, media_type=EVENT_STREAM)
        del self.headers["content-length"]
        self._follow = follow
        self._stopping = stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def write(data: bytes) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": True})

        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with ended_with_client(receive):
            if not scope.get("head"):
                with self._stopping.wait(math.inf):
                    await self._write_all(write)
            with move_on_after(LAST_SECONDS):
                await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _write_all(self, write: Write) -> None:
        try:
            await write(f"retry: {RETRY_MILLISECONDS}\n\n".encode())
            await self._follow(write)
        except (SQLAlchemyError, ServiceError):
            log.info("an event stream ends early: its client comes back", exc_info=True)
