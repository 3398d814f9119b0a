"""JSON bodies have limits, on bytes, values and faults, whether their length was announced or not, and no key twice.

What is not small is taken apart in a thread, one body at a time, and holds a place while it comes.
"""

import json
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any, NoReturn

from anyio import CapacityLimiter, to_thread
from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope

from app.api.dependencies import Services
from app.api.errors import BodyRefused
from app.errors import Fault, Invalid, Malformed, ServiceError
from zeropoint.schema.faults import MOST_NAME

MOST_VALUES = 50_000
"""In a body, by its commas: each value may be wrong, and take a line of what validation finds."""
MOST_COUNTED = 1000
"""Faults that are looked at; each costs ten microseconds of the event loop."""
SMALL_BYTES = 4096
"""What is validated on the event loop: it can't hold many faults."""

_parser = CapacityLimiter(1)


class LimitedRoute(APIRoute):
    """A route that stops reading its body at settings.max_json_bytes, or at MOST_VALUES."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()
        check = _checker(self.body_field.field_info.annotation) if self.body_field else _nothing

        async def limited(request: Request) -> Response:
            services: Services = request.app.state.services
            async with AsyncExitStack() as place:
                receive = _counting(request, services, place)
                return await handler(StrictRequest(request.scope, receive, check, place.aclose))

        return limited


class StrictRequest(Request):
    """A request whose JSON means one thing alone: of a key that an object has twice, others would take either value."""

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        check: Callable[[Any], None],
        release: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__(scope, receive)
        self._check = check
        self._release = release

    async def json(self) -> Any:
        """Return the body's JSON. Raises BodyRefused, json.JSONDecodeError."""
        body = await self.body()
        if len(body) <= SMALL_BYTES:
            return strict_json(body)
        try:
            return await to_thread.run_sync(self._parsed_and_checked, body, limiter=_parser)
        finally:
            await self._release()

    def _parsed_and_checked(self, body: bytes) -> Any:
        content = strict_json(body)
        self._check(content)
        return content


def strict_json(body: bytes) -> Any:
    """Return the content of a body. Raises BodyRefused, json.JSONDecodeError."""
    return json.loads(body, object_pairs_hook=_unique, parse_constant=_no_constant)


def _nothing(_content: Any) -> None:
    pass


def _checker(expected: Any) -> Callable[[Any], None]:
    """Return what refuses a body with more faults than are looked at: validation would describe every one."""
    adapter: TypeAdapter[Any] = TypeAdapter(expected)

    def check(content: Any) -> None:
        try:
            adapter.validate_python(content)
        except ValidationError as error:
            if error.error_count() > MOST_COUNTED:
                raise BodyRefused(_too_wrong(error.error_count())) from None

    return check


def _too_wrong(count: int) -> ServiceError:
    detail = f"is wrong in {count} places, too many to name"
    remedy = "Send what /openapi.json describes."
    return Invalid("request_invalid", f"The body {detail}.", remedy, [Fault("", detail)], more_faults=count - 1)


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


def _counting(request: Request, services: Services, place: AsyncExitStack) -> Receive:
    """Return a `receive` that takes a place once the body is not small, and refuses it where it is too large."""
    limit, documents = services.settings.max_json_bytes, services.admission.documents
    received = values = 0

    async def counted() -> Message:
        nonlocal received, values
        message = await request.receive()
        body = message.get("body", b"")
        small = received <= SMALL_BYTES
        received, values = received + len(body), values + body.count(b",")
        if received > limit or values > MOST_VALUES:
            # The only kind that FastAPI lets through while it reads a body.
            raise HTTPException(413)
        if small and received > SMALL_BYTES:
            try:
                await place.enter_async_context(documents.taken_by(request.state.body))
            except ServiceError as refusal:
                raise BodyRefused(refusal) from None
        return message

    return counted
