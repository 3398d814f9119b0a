"""Notices a client that goes away while its request is worked on, so that the work ends with it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from anyio import CancelScope
from starlette.requests import ClientDisconnect
from starlette.types import Receive


@asynccontextmanager
async def ended_with_client(receive: Receive, end: Callable[[], None] = lambda: None) -> AsyncIterator[None]:
    """End the block when the client goes away: call `end`, cancel what is awaited, and raise ClientDisconnect.

    `end` must make what runs in a thread return; it is called too when the block ends in any other way. The request's
    body has been received.
    """
    gone = False
    with CancelScope() as scope:

        async def watch() -> None:
            nonlocal gone
            while (await receive())["type"] != "http.disconnect":
                pass
            gone = True
            end()
            scope.cancel()

        watching = asyncio.create_task(watch())
        try:
            yield
        except Exception:
            if not gone:
                raise
        finally:
            watching.cancel()
            end()
    if gone:
        raise ClientDisconnect
