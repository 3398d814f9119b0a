"""What callers got: latencies and refusals by endpoint, and the table of them."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

SHED = (503, 507)
"""How a service that has too much to do, or no room, refuses."""
NO_ANSWER = 0
WRONG = -1
"""In place of a status: there was no answer, or it was not what was stored."""
COLUMNS = ("endpoint", "answers", "p50", "p90", "p99", "longest", "refused")


@dataclass(frozen=True)
class Refusal:
    """An answer that is no success; `code` is the problem's, or the kind of failure without an answer."""

    status: int
    code: str

    @property
    def is_fault(self) -> bool:
        """Return whether a service that may shed load must not answer so."""
        return self.status <= NO_ANSWER or (self.status >= 500 and self.status not in SHED)

    def __str__(self) -> str:
        return f"{self.status} {self.code}" if self.status > NO_ANSWER else self.code


@dataclass
class Answers:
    """Grows while callers call. Seconds are of successes alone: a refusal may be quick."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    refusals: dict[str, Counter[Refusal]] = field(default_factory=lambda: defaultdict(Counter))

    def faults(self) -> list[str]:
        """Return what must not be, a line for each endpoint and kind."""
        return [
            f"{endpoint}: {refusal}, {count} times"
            for endpoint, refusals in sorted(self.refusals.items())
            for refusal, count in refusals.items()
            if refusal.is_fault
        ]

    def table(self) -> str:
        """Return a Markdown table with milliseconds."""
        rows = [self._row(endpoint) for endpoint in sorted(self.seconds.keys() | self.refusals.keys())]
        return "\n".join([line(COLUMNS), line(["---"] * len(COLUMNS)), *map(line, rows)])

    def _row(self, endpoint: str) -> list[str]:
        seconds, refusals = self.seconds[endpoint], self.refusals[endpoint]
        count = len(seconds) + refusals.total()
        times = [f"{1000 * percentile(seconds, share):.0f}" for share in (0.5, 0.9, 0.99, 1)] if seconds else ["–"] * 4
        refused = ", ".join(f"{refusal} ×{times}" for refusal, times in refusals.most_common()) or "0"
        return [f"`{endpoint}`", str(count), *times, refused]


def line(cells: Iterable[str]) -> str:
    """Return one line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share of all values does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
