"""What /metrics looks at beside its own process: each part by a check of its own, which may hang alone."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from anyio import CapacityLimiter
from celery import Celery
from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker

from app.accounts.oidc import Provider
from app.api.latest import Latest, Seen
from app.api.probes import ANSWER_SECONDS, check_broker, check_database, check_storage
from app.jobs.figures import Figures, figures, stored_bytes
from app.storage import Storage

STORED_SECONDS = 60.0
"""How long sums over all uploads and artifacts are kept."""
SCRAPES = 4
"""At once, on the API's own address."""


T = TypeVar("T")


@dataclass(frozen=True)
class Found:
    """What was seen at one moment: whether each part answers, and what rows say; None: they never did."""

    up: Mapping[str, bool]
    figures: Seen[Figures] | None
    stored: Seen[dict[str, int]] | None


@dataclass(frozen=True)
class Observed:
    """The parts of a service that are looked at when its metrics are asked for."""

    parts: Mapping[str, Latest[str | None]]
    figures: Latest[Figures]
    stored: Latest[dict[str, int]]
    threads: CapacityLimiter = field(default_factory=partial(CapacityLimiter, SCRAPES))

    def look(self) -> Found:
        """Look at all parts at once, for half a second at most."""
        for part in self.parts.values():
            part.begin()
        self.figures.begin()
        self.stored.begin()
        until = time.monotonic() + ANSWER_SECONDS
        seen = {part: latest.seen(until) for part, latest in self.parts.items()}
        up = {part: one is not None and one.answers and one.value is None for part, one in seen.items()}
        return Found(up, self.figures.seen(until), self.stored.seen(until))


def observed_for(
    engine: Engine, sessions: sessionmaker[Session], storage: Storage, celery: Celery, provider: Provider | None
) -> Observed:
    """Return what a process with these parts looks at."""
    of_tokens = {"identity_provider": Latest(provider.check)} if provider else {}
    return Observed(
        parts={
            "database": Latest(partial(check_database, engine)),
            "broker": Latest(partial(check_broker, celery)),
            "storage": Latest(partial(check_storage, storage)),
            **of_tokens,
        },
        figures=Latest(_in_session(sessions, figures)),
        stored=Latest(_in_session(sessions, stored_bytes), STORED_SECONDS),
    )


def _in_session(sessions: sessionmaker[Session], read: Callable[[Session], T]) -> Callable[[], T]:
    def check() -> T:
        with sessions() as session:
            return read(session)

    return check
