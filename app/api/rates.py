"""Quotas that a request meets before its work: how often a project asks, and how many uploads it sends at once."""

import logging
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from anyio import CapacityLimiter, to_thread
from limits import RateLimitItemPerSecond
from limits.errors import StorageError
from limits.storage import RedisStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from redis.exceptions import RedisError

from app.accounts.quotas import Quotas
from app.errors import TooMany, Unavailable
from app.settings import Settings

FRESH_SECONDS = 5.0
"""How long quotas of a project are remembered."""
REDIS_SECONDS = 0.25
THREADS = 4
PAUSE_SECONDS = 1.0
"""While Redis is away, only one request a second waits for it."""

log = logging.getLogger(__name__)


class Rates:
    """Counts requests of projects in Redis, for all API processes, and uploads of this process."""

    def __init__(self, settings: Settings) -> None:
        # Nothing is connected yet.
        storage = RedisStorage(
            settings.broker_url,
            wrap_exceptions=True,
            key_prefix=f"{settings.broker_prefix}rates",
            socket_timeout=REDIS_SECONDS,
            socket_connect_timeout=REDIS_SECONDS,
        )
        self._limiter = SlidingWindowCounterRateLimiter(storage)
        self._threads = CapacityLimiter(THREADS)
        self._fail_open = settings.quota_fail_open
        self._is_away = False
        self._away_until = float("-inf")
        self._uploads = Counter[str]()
        self._known: dict[str, tuple[float, Quotas]] = {}

    def known(self, project: str) -> Quotas | None:
        """Return the quotas of a project, if they were looked up lately."""
        at, quotas = self._known.get(project, (float("-inf"), None))
        return quotas if time.monotonic() - at < FRESH_SECONDS else None

    def remember(self, project: str, quotas: Quotas) -> None:
        """Remember quotas that were looked up."""
        self._known[project] = (time.monotonic(), quotas)

    async def check(self, project: str, quotas: Quotas) -> None:
        """Count a request. Raises TooMany; Unavailable while Redis is away, if the settings rather refuse then."""
        most = quotas.requests_a_second
        if most is None:
            return
        try:
            allowed = await self._hit(project, most)
        except (StorageError, RedisError, OSError) as error:
            if self._fail_open:
                return
            raise _away() from error
        if not allowed:
            detail = f"This project may send {most} requests a second, and sent more."
            raise TooMany("rate_exceeded", detail, "Ask again; Retry-After says when.", retry_after=1)

    async def _hit(self, project: str, most: int) -> bool:
        """Count a request, and return whether it is one of those that may be. Raises StorageError and its like."""
        tries = self._is_away and time.monotonic() >= self._away_until
        if tries:
            self._away_until = time.monotonic() + PAUSE_SECONDS  # others don't meanwhile
        return await to_thread.run_sync(self._hit_now, project, most, tries, limiter=self._threads)

    def _hit_now(self, project: str, most: int, tries: bool) -> bool:
        if self._is_away and not tries:  # found since this request began to wait for a thread
            raise StorageError(TimeoutError())
        try:
            allowed = self._limiter.hit(RateLimitItemPerSecond(most), project)
        except (StorageError, RedisError, OSError) as error:
            self._is_away, self._away_until = True, time.monotonic() + PAUSE_SECONDS
            log.warning("requests can't be counted: Redis does not answer (%s)", error)
            raise
        self._is_away = False
        return allowed

    @contextmanager
    def upload(self, project: str, quotas: Quotas) -> Iterator[None]:
        """Count an upload while it is received and checked. Raises TooMany."""
        if quotas.uploads is not None and self._uploads[project] >= quotas.uploads:
            detail = f"This project sends {quotas.uploads} uploads at once, as many as it may."
            raise TooMany("quota_exceeded", detail, "Send it when another one has ended.", retry_after=5)
        self._uploads[project] += 1
        try:
            yield
        finally:
            self._uploads[project] -= 1

    def uploads(self, project: str) -> int:
        """Return how many uploads of a project this process receives now."""
        return self._uploads[project]


def _away() -> Unavailable:
    detail = "Redis does not answer, so this project's requests can't be counted."
    return Unavailable("rates_away", detail, "Ask again later; Retry-After says when.", retry_after=2)
