"""Whether this process was told to stop: those who wait for what may never come are answered then."""

from collections.abc import Iterator
from contextlib import contextmanager

from anyio import CancelScope, move_on_after


class Stopping:
    """Begins once, for good. Used on the event loop's thread alone."""

    def __init__(self) -> None:
        self.begun = False
        self._waits: set[CancelScope] = set()

    def begin(self) -> None:
        """End every wait, and all that come later."""
        self.begun = True
        for scope in self._waits:
            scope.cancel()

    @contextmanager
    def wait(self, seconds: float) -> Iterator[CancelScope]:
        """Cut the block off after so many seconds, when the stop begins, or when the scope is cancelled."""
        with move_on_after(0 if self.begun else seconds) as scope:
            self._waits.add(scope)
            try:
                yield scope
            finally:
                self._waits.discard(scope)
