"""JSON bodies have limits, on bytes and on values, whether their length was announced or not, and no key twice."""

import json
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

from app.api.dependencies import Services
from app.api.errors import BodyRefused
from app.errors import Malformed
from zeropoint.schema.faults import MOST_NAME

MOST_VALUES = 50_000
"""In a body, by its commas: each value may be wrong, and take a line of what validation finds."""


class LimitedRoute(APIRoute):
    """A route that stops reading its body at settings.max_json_bytes, or at MOST_VALUES."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def limited(request: Request) -> Response:
            services: Services = request.app.state.services
            receive = _counting(request.receive, services.settings.max_json_bytes)
            return await handler(StrictRequest(request.scope, receive))

        return limited


class StrictRequest(Request):
    """A request whose JSON means one thing alone: of a key that an object has twice, others would take either value."""

    async def json(self) -> Any:
        """Return the body's JSON. Raises BodyRefused, json.JSONDecodeError."""
        return json.loads(await self.body(), object_pairs_hook=_unique, parse_constant=_no_constant)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        (key, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise _malformed(f"has the key {json.dumps(key[:MOST_NAME])} more than once in one object")
    return content


def _no_constant(name: str) -> NoReturn:
    raise _malformed(f"holds {name}, which is not a JSON number")


def _malformed(what: str) -> BodyRefused:
    return BodyRefused(Malformed("json_malformed", f"The body {what}.", "Send one JSON object in UTF-8."))


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
