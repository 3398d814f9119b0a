"""The feed: what happens in this database, for all listeners of this process, by one query now and then.

A listener has what happened since it began to listen, in a queue with an end: whoever reads slower than things happen
is dropped, and comes back with the id of the last event that it had.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from contextvars import Context
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from anyio import CapacityLimiter, to_thread
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from app import metrics
from app.accounts import keys
from app.accounts.caller import Caller
from app.api.schemas import ProjectEventBody
from app.errors import Unavailable
from app.jobs import publishing, queries
from app.webhooks import outbox

POLL_SECONDS = 0.25
BATCH = 500
MOST_QUEUED = 1000
"""Events that wait for one listener to read them."""
CHECK_SECONDS = 15.0
"""How long a listener goes on whose key was revoked, or whose job was deleted."""
TOKEN_SECONDS = 900.0
"""How long a listener goes on with a token of an identity provider, which ends at a time that is not kept."""

T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Listener:
    """One who listens: to a project, or to one job of it."""

    who: Caller
    job_id: str | None
    since: int
    """The last position that was published before it listened."""
    until: float
    ended: bool = False
    _events: deque[ProjectEventBody] = field(default_factory=deque)
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def hear(self, project: str, event: ProjectEventBody) -> None:
        """Queue an event if it is one of those that are listened to; drop the listener if it reads too slowly."""
        if self.ended or project != self.who.project or self.job_id not in (None, event.job):
            return
        self._events.append(event)
        self._arrived.set()
        if len(self._events) > MOST_QUEUED:
            self._events.clear()
            self.end()

    def end(self) -> None:
        """Let the listener hear no more."""
        self.ended = True
        self._arrived.set()

    async def heard(self, seconds: float) -> list[ProjectEventBody]:
        """Return what is new, as soon as there is something; nothing after so many seconds, or at the end."""
        try:
            async with asyncio.timeout(seconds):
                await self._arrived.wait()
        except TimeoutError:
            return []
        self._arrived.clear()
        events = [*self._events]
        self._events.clear()
        return events


class Feed:
    """All listeners of this process, at most `most`. None of them holds a thread or a transaction."""

    def __init__(self, sessions: sessionmaker[Session], most: int) -> None:
        self._sessions = sessions
        self._most = most
        self._listeners: set[Listener] = set()
        self._thread = CapacityLimiter(1)
        self._starting = asyncio.Lock()
        self._polling: asyncio.Task[None] | None = None
        self._position = 0
        self._checked = 0.0

    async def begin(self) -> None:
        """Poll from now on. Raises Unavailable where as many listen as may, SQLAlchemyError."""
        if len(self._listeners) >= self._most:
            raise _too_many()
        async with self._starting:
            if self._polling is None or self._polling.done():
                self._position = await self._in_thread(publishing.last_position)
                # Not in the context of the request that happens to be first: this works for all.
                self._polling = asyncio.get_running_loop().create_task(
                    self._poll_while_any_listens(), context=Context()
                )

    @asynccontextmanager
    async def listening(self, who: Caller, job_id: str | None = None) -> AsyncIterator[Listener]:
        """Yield a listener that hears all that is published from now on. Raises what `begin` does."""
        await self.begin()
        seconds = TOKEN_SECONDS if who.actor.startswith("oidc:") else float("inf")
        listener = Listener(who, job_id, self._position, time.monotonic() + seconds)
        self._listeners.add(listener)
        metrics.LISTENERS.inc()
        try:
            yield listener
        finally:
            self._listeners.discard(listener)
            metrics.LISTENERS.dec()

    async def publish(self) -> None:
        """Publish what waits for it, so that a page that is read next has it."""
        try:
            await self._in_thread(outbox.publish)
        except SQLAlchemyError:
            log.info("events could not be published just now", exc_info=True)

    async def _poll_while_any_listens(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            if not self._listeners:
                return
            try:
                await self._poll()
            except SQLAlchemyError:
                log.warning("the database does not answer: listeners wait for events", exc_info=True)
            except Exception:
                log.exception("could not look for events, trying again")

    async def _poll(self) -> None:
        """Hand each new event to those who listen to it, and end listeners whose key or whose job is no more."""
        events = await self._in_thread(_new_events, self._position)
        for project, event in events:
            self._position = event.position
            for listener in self._listeners:
                listener.hear(project, event)
        now = time.monotonic()
        if now - self._checked >= CHECK_SECONDS:
            self._checked = now
            ended = await self._in_thread(keys.ended, {listener.who.actor for listener in self._listeners})
            there = await self._in_thread(queries.existing, {listener.job_id or "" for listener in self._listeners})
            for listener in self._listeners:
                gone = listener.job_id is not None and listener.job_id not in there
                if listener.who.actor in ended or listener.until <= now or gone:
                    listener.end()

    async def _in_thread(self, look: Callable[..., T], *arguments: object) -> T:
        return await to_thread.run_sync(partial(_with_session, self._sessions, look, *arguments), limiter=self._thread)


def _with_session(sessions: sessionmaker[Session], look: Callable[..., T], *arguments: object) -> T:
    with sessions() as session:
        return look(session, *arguments)


def _new_events(session: Session, after: int) -> Sequence[tuple[str, ProjectEventBody]]:
    """Return what was published behind a position, each with its project, after publishing what waits for it."""
    outbox.publish(session)
    rows = publishing.published(session, after, BATCH)
    return [(row.project, ProjectEventBody.model_validate(row)) for row in rows]


def _too_many() -> Unavailable:
    return Unavailable(
        "busy",
        "As many requests listen to events as this process lets.",
        "Ask again later, or read pages: leave out Accept: text/event-stream.",
        retry_after=10,
    )
