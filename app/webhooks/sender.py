"""The sender: takes deliveries that are due to their targets, many at once, in threads of its own.

A target that is slow, or away, holds up none of the others: it has few threads, and those that were slow or failed the
last time share a few of their own.
"""

import logging
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from time import monotonic

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from app import logs, metrics
from app.database import connected
from app.outbound import OutboundError, Rules, called, networks_of
from app.settings import Settings, words_of
from app.webhooks import deliveries, outbox
from app.webhooks.deliveries import Claimed, Lane
from app.webhooks.signing import headers_of

POLL_SECONDS = 0.5
TIDY_SECONDS = 300.0
STOP_SECONDS = 1.0
"""How long a stop waits for what is under way: it is sent again when its lease has ended."""
FAST, SLOW = 12, 4
"""Deliveries under way at once: to targets that answer well, and to those that are slow or fail."""
FAST_EACH, SLOW_EACH = 2, 1
"""Of them to one target."""
SLOW_SECONDS = 2.0
"""A target that takes longer is slow."""
MOST_SECONDS = 20.0
IDLE_SECONDS = 10.0
MOST_ANSWER_BYTES = 2**16

log = logging.getLogger(__name__)


def rules_of(settings: Settings) -> Rules:
    """Return what a call to a webhook may do: http and private addresses are an operator's to allow."""
    private = networks_of(words_of(settings.webhook_private_addresses))
    # It ends before its lease does.
    seconds = min(MOST_SECONDS, settings.lease_seconds / 2)
    return Rules(seconds, min(IDLE_SECONDS, seconds), MOST_ANSWER_BYTES, plain=bool(private), private=private)


@contextmanager
def sending(settings: Settings) -> Iterator[None]:
    """Send what is due, in threads of its own, until the block ends."""
    stop = threading.Event()
    thread = threading.Thread(target=_send_until, args=(stop, settings), name="webhooks", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=STOP_SECONDS)


def _send_until(stop: threading.Event, settings: Settings) -> None:
    with connected(settings) as sessions:
        sender, tidied = Sender(sessions, rules_of(settings), timedelta(seconds=settings.lease_seconds)), 0.0
        while not stop.is_set():
            try:
                sender.look()
                if monotonic() - tidied > TIDY_SECONDS:
                    tidied = monotonic()
                    sender.tidy()
            except SQLAlchemyError:
                log.warning("the database does not answer: webhooks wait", exc_info=True)
            except Exception:
                log.exception("could not look for webhooks that are due, trying again")
            sender.ended.wait(POLL_SECONDS)
            sender.ended.clear()
        sender.finish(STOP_SECONDS)


@dataclass
class Sender:
    """What this process sends now: how much to each webhook, and which of them were slow the last time."""

    sessions: sessionmaker[Session]
    rules: Rules
    lease: timedelta
    ended: threading.Event = field(default_factory=threading.Event)
    """Set when a delivery has ended: there may be room for another."""
    _under_way: dict[str, threading.Thread] = field(default_factory=dict)
    _counts: dict[bool, Counter[str]] = field(default_factory=lambda: {True: Counter(), False: Counter()})
    _slow: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def look(self) -> None:
        """Publish what waits for it, and begin to send what is due, as far as there is room."""
        with self.sessions() as session:
            outbox.publish(session)
            for slow in (False, True):
                for claimed in deliveries.claim(session, self._lane(slow=slow), self.lease):
                    self._begin(claimed, slow=slow)

    def tidy(self) -> None:
        """Give up and forget what is too old."""
        with self.sessions() as session:
            deliveries.tidy(session)

    def finish(self, seconds: float) -> None:
        """Wait for what is under way, for so long in all."""
        until = monotonic() + seconds
        with self._lock:
            threads = [*self._under_way.values()]
        for thread in threads:
            thread.join(max(0.0, until - monotonic()))

    def _lane(self, *, slow: bool) -> Lane:
        most, each = (SLOW, SLOW_EACH) if slow else (FAST, FAST_EACH)
        with self._lock:
            counts = self._counts[slow]
            both = self._counts[True] + self._counts[False]
            busy = {webhook for webhook, count in both.items() if count >= each}
            return Lane(slow, most - counts.total(), each, frozenset(self._slow), frozenset(busy))

    def _begin(self, claimed: Claimed, *, slow: bool) -> None:
        thread = threading.Thread(target=self._deliver, args=(claimed, slow), name="webhook", daemon=True)
        with self._lock:
            self._counts[slow][claimed.webhook_id] += 1
            self._under_way[claimed.id] = thread
        thread.start()

    def _deliver(self, claimed: Claimed, slow: bool) -> None:
        began = monotonic()
        try:
            self._try(claimed)
        except SQLAlchemyError:
            log.warning("what became of a delivery was not recorded: it is sent again", exc_info=True)
        except Exception:
            log.exception("a delivery failed: it is sent again")
        finally:
            with self._lock:
                self._counts[slow] -= Counter([claimed.webhook_id])
                del self._under_way[claimed.id]
                (self._slow.add if monotonic() - began > SLOW_SECONDS else self._slow.discard)(claimed.webhook_id)
            self.ended.set()

    def _try(self, claimed: Claimed) -> None:
        """Send a delivery once, and record what became of it."""
        status, error, asked = None, None, None
        try:
            headers = headers_of(claimed.id, claimed.at, claimed.body, claimed.secrets)
            with called("POST", claimed.url, self.rules, headers, claimed.body) as answer:
                status, asked = answer.status, _retry_after(answer.headers.get("retry-after", ""))
        except OutboundError as failed:
            error = str(failed)
        if status is not None and not 200 <= status < 300:
            error = f"The target answered {status}; anything but 2xx is a failure."
        with self.sessions() as session:
            if error is None and status is not None:
                deliveries.record_delivered(session, claimed, status)
            else:
                deliveries.record_failed(session, claimed, error or "", status, asked)
        metrics.WEBHOOK_ATTEMPTS.labels("failed" if error else "delivered").inc()
        level = logging.INFO if error is None else logging.WARNING
        facts = logs.fields(delivery_id=claimed.id, webhook_id=claimed.webhook_id, attempt=claimed.attempt)
        log.log(level, "webhook %s", error or "delivered", extra=facts)


def _retry_after(value: str) -> timedelta | None:
    return timedelta(seconds=int(value)) if value.isdecimal() and len(value) < 7 else None
