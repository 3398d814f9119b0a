"""JSON bodies have limits, on bytes and on values, whether their length was announced or not."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

from app.api.dependencies import Services

MOST_VALUES = 50_000
"""In a body, by its commas: each value may be wrong, and take a line of what validation finds."""


class LimitedRoute(APIRoute):
    """A route that stops reading its body at settings.max_json_bytes, or at MOST_VALUES."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def limited(request: Request) -> Response:
            services: Services = request.app.state.services
            receive = _counting(request.receive, services.settings.max_json_bytes)
            return await handler(Request(request.scope, receive))

        return limited


def _counting(receive: Receive, limit: int) -> Receive:
    received = values = 0

    async def counted() -> Message:
        nonlocal received, values
        message = await receive()
        body = message.get("body", b"")
        received, values = received + len(body), values + body.count(b",")
        if received > limit or values > MOST_VALUES:
            # The only kind that FastAPI lets through while it reads a body.
            raise HTTPException(413)
        return message

    return counted
