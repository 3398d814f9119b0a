"""JSON bodies have a limit, whether their length was announced or not."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

from app.api.dependencies import Services


class LimitedRoute(APIRoute):
    """A route that stops reading its body at settings.max_json_bytes."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def limited(request: Request) -> Response:
            services: Services = request.app.state.services
            receive = _counting(request.receive, services.settings.max_json_bytes)
            return await handler(Request(request.scope, receive))

        return limited


def _counting(receive: Receive, limit: int) -> Receive:
    received = 0

    async def counted() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limit:
            # The only kind that FastAPI lets through while it reads a body.
            raise HTTPException(413)
        return message

    return counted
