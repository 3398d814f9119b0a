"""The latest value of a check that may be slow or hang: who asks waits a moment for a new one, and else gets the old.

The checks of /metrics: what they look at may be away, and that is when metrics are needed.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Seen(Generic[T]):
    """What a check returned last, how many seconds ago it began, and whether the newest check returned at all."""

    value: T
    age_seconds: float
    answers: bool


class Latest(Generic[T]):
    """One check, made in a thread of its own, one at a time, when its last result is older than `fresh_seconds`."""

    def __init__(self, check: Callable[[], T], fresh_seconds: float = 1.0) -> None:
        self._check = check
        self._fresh_seconds = fresh_seconds
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._ended.set()
        self._began = float("-inf")
        self._value: tuple[T, float] | None = None
        self._failed = False

    def begin(self) -> None:
        """Start the check, unless one runs or the last is fresh."""
        with self._lock:
            if not self._ended.is_set() or time.monotonic() - self._began < self._fresh_seconds:
                return
            self._ended.clear()
            self._began = time.monotonic()
        threading.Thread(target=self._run, name="latest", daemon=True).start()

    def seen(self, until: float) -> Seen[T] | None:
        """Return the newest value, waiting for a running check until this moment (monotonic); None: never was one."""
        in_time = self._ended.wait(max(until - time.monotonic(), 0.0))
        with self._lock:
            if self._value is None:
                return None
            value, began = self._value
            return Seen(value, time.monotonic() - began, in_time and not self._failed)

    def _run(self) -> None:
        try:
            value = self._check()
            with self._lock:
                self._value, self._failed = (value, self._began), False
        except Exception:
            self._failed = True
            log.warning("a check for metrics failed", exc_info=True)
        finally:
            self._ended.set()
