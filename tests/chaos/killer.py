"""Kills one part after another, and starts it again: which, how and when, a seeded random generator says.

The reconciler is a thread of the API and of every worker's main process: it dies with each of them.
"""

import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Self

from tests.chaos.parts import Frozen, Part
from tests.chaos.service import WORKERS, Service
from tests.service.processes import descendants, is_leader

AWAY_SECONDS = (0.2, 2.0)
FROZEN_LEASES = 1.5
AWAY = ("503 SlowDown", "500 InternalError", "unheard", "lost", "cut")
"""How a bucket fails, but for what ends a process that starts meanwhile."""

Way = tuple[str, Callable[[], bool]]
"""What it is called, and how it is done; False when there was nothing to kill."""


class Killer:
    """A thread that kills while this is entered; in the end it starts what is down and thaws what is frozen."""

    def __init__(self, service: Service, seed: int, targets: Sequence[str], pause_seconds: tuple[float, float]) -> None:
        self.kills: Counter[str] = Counter()
        self._service = service
        self._targets = targets
        self._pause_seconds = pause_seconds
        self._random = random.Random(f"killer {seed}")
        self._over = threading.Event()
        self._timers: list[threading.Timer] = []
        self._thread = threading.Thread(target=self._kill_until_over, name="killer")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        for timer in self._timers:
            timer.join()
        self._service.start()

    def _kill_until_over(self) -> None:
        ways = self._ways()
        while not self._over.wait(self._random.uniform(*self._pause_seconds)):
            for part in self._service.parts.values():
                part.mend()
            name, way = self._random.choice(self._random.choice(ways))
            if way():
                self.kills[name] += 1

    def _ways(self) -> list[list[Way]]:
        """One list for each part, so that each is hit as often as another."""
        parts = [self._service.parts[name] for name in self._targets if name in self._service.parts]
        away: list[Way] = [(f"bucket: {how}", self._keeping_away(how)) for how in AWAY if self._service.bucket]
        return [*map(self._ways_of, parts), *([away] if away else [])]

    def _ways_of(self, part: Part) -> list[Way]:
        whole = (part.name, self._killing(part))
        if part.name == "postgresql":
            # For one of its processes all others lose their connections too, some in the middle of a commit.
            return [whole, (f"a process of {part.name}", self._killing_one_of(part, leaders=True))]
        if part.name not in WORKERS:
            return [whole]
        return [
            whole,
            (f"{part.name} alone", self._killing(part, whole=False)),
            # The programs of jobs lead sessions.
            (f"a job of {part.name}", self._killing_one_of(part, leaders=True)),
            (f"a pool process of {part.name}", self._killing_one_of(part, leaders=False)),
            (f"{part.name} frozen", self._freezing(part)),
            (f"{part.name} told to stop", self._restarting(part)),
        ]

    def _killing(self, part: Part, *, whole: bool = True) -> Callable[[], bool]:
        def kill() -> bool:
            killed = part.kill(whole=whole)
            self._later(self._random.uniform(*AWAY_SECONDS), part.start)
            return killed

        return kill

    def _killing_one_of(self, part: Part, *, leaders: bool) -> Callable[[], bool]:
        def kill() -> bool:
            with suppress(FileNotFoundError, ProcessLookupError, IndexError):
                found = descendants(part.pid)[1:] if part.pid else []
                os.kill(self._random.choice([pid for pid in found if is_leader(pid) == leaders]), signal.SIGKILL)
                return True
            return False

        return kill

    def _freezing(self, worker: Part) -> Callable[[], bool]:
        """For longer than its leases: what it held is somebody else's when it wakes up, and it does not know."""

        def freeze() -> bool:
            frozen = Frozen(worker)
            self._later(FROZEN_LEASES * self._service.lease_seconds, frozen.thaw)
            return worker.pid is not None

        return freeze

    def _restarting(self, part: Part) -> Callable[[], bool]:
        def restart() -> bool:
            self._later(0, part.restart)
            return part.pid is not None

        return restart

    def _keeping_away(self, how: str) -> Callable[[], bool]:
        """No process of ours is killed: what they store in does not answer, or in vain."""

        def keep_away() -> bool:
            assert self._service.bucket is not None
            self._service.bucket.server.away(how, seconds=self._random.uniform(*AWAY_SECONDS))
            return True

        return keep_away

    def _later(self, seconds: float, do: Callable[[], None]) -> None:
        self._timers.append(threading.Timer(seconds, do))
        self._timers[-1].start()
