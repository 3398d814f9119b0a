"""Answers that may be large: written as JSON in a thread, and sent in pieces, as fast as their client reads."""

from asyncio import sleep

from fastapi import Response
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

PIECE_BYTES = 2**16
"""What is copied for a connection at once: a thousand that read slowly hold as many pieces, and not as many answers."""


class LargeAnswer(Response):
    """A response whose next piece is sent when the connection has room for it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - as Starlette's
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        content = memoryview(self.body)
        for start in range(0, max(1, len(content)), PIECE_BYTES):
            piece = bytes(content[start : start + PIECE_BYTES])
            more = start + PIECE_BYTES < len(content)
            await send({"type": "http.response.body", "body": piece, "more_body": more})
            await sleep(0)  # others have their turn, however much the system takes at once


def answer(body: BaseModel, status: int = 200, **headers: str) -> Response:
    """Return a body as JSON."""
    return LargeAnswer(body.model_dump_json(), status, headers, "application/json")
