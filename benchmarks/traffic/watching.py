"""Watches a service under load: how long /healthz takes, and how much memory its processes hold."""

import http.client
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from benchmarks.traffic.answers import percentile
from tests.service.processes import command_line, descendants

HEALTH_PAUSE_SECONDS = 0.2
HEALTH_PATIENCE_SECONDS = 20.0
MEMORY_PAUSE_SECONDS = 1.0
SETTLING_SECONDS = 10.0
PARTS: Mapping[str, str] = {"API": " -m app.api.server ", "worker": " -m worker "}
"""Part -> what its command lines have in common; a worker's are its main process and its pool."""


class Every:
    """A thread that does something again and again while it is entered."""

    def __init__(self, pause_seconds: float, do: Callable[[], None]) -> None:
        self._pause_seconds = pause_seconds
        self._do = do
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._do_until_over)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    def _do_until_over(self) -> None:
        while not self._over.wait(self._pause_seconds):
            self._do()


class Health:
    """Asks /healthz on a new connection each time, as probes do."""

    def __init__(self, address: str) -> None:
        self.seconds: list[float] = []
        self.refused = 0
        self._host = urlsplit(address).netloc

    def ask(self) -> None:
        began = time.perf_counter()
        connection = http.client.HTTPConnection(self._host, timeout=HEALTH_PATIENCE_SECONDS)
        try:
            connection.request("GET", "/healthz")
            self.refused += connection.getresponse().status != http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            self.refused += 1
        finally:
            connection.close()
        self.seconds.append(time.perf_counter() - began)

    def __str__(self) -> str:
        p99, most = (1000 * percentile(self.seconds, share) for share in (0.99, 1))
        return f"/healthz: {len(self.seconds)} probes, p99 {p99:.0f} ms, longest {most:.0f} ms, refused {self.refused}"


@dataclass(frozen=True)
class Growth:
    """MiB of a part after it has settled, at first and at last."""

    part: str
    first: float
    last: float
    most: float

    @property
    def mib(self) -> float:
        return self.last - self.first

    def __str__(self) -> str:
        return (
            f"{self.part}: {self.first:.0f} MiB after the first seconds, {self.last:.0f} MiB at the end "
            f"({self.mib:+.1f}), at most {self.most:.0f}"
        )


class Memory:
    """Looks at the resident set of each part's processes; what jobs and gates start is not theirs."""

    def __init__(self, serving: int) -> None:
        self._serving = serving
        self.mib: dict[str, list[float]] = {part: [] for part in PARTS}

    def look(self) -> None:
        of_part = dict.fromkeys(PARTS, 0.0)
        for pid in descendants(self._serving):
            try:
                command, status = command_line(pid), Path(f"/proc/{pid}/status").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended while we looked
            for part, words in PARTS.items():
                of_part[part] += _resident_mib(status) if words in command else 0
        for part, mib in of_part.items():
            self.mib[part].append(mib)

    def growth(self) -> list[Growth]:
        """Return the growth of each part, from the first quarter behind SETTLING_SECONDS to the last quarter.

        Empty when there are too few looks for that.
        """
        settled = {part: mib[round(SETTLING_SECONDS / MEMORY_PAUSE_SECONDS) :] for part, mib in self.mib.items()}
        return [_growth(part, mib) for part, mib in settled.items() if len(mib) >= 4]

    def __str__(self) -> str:
        curves = (f"{part}, MiB each second: {' '.join(f'{one:.0f}' for one in mib)}" for part, mib in self.mib.items())
        return "\n".join(curves)


def _growth(part: str, mib: Sequence[float]) -> Growth:
    quarter = len(mib) // 4
    return Growth(part, statistics.median(mib[:quarter]), statistics.median(mib[-quarter:]), max(mib))


def _resident_mib(status: str) -> float:
    lines = (line for line in status.splitlines() if line.startswith("VmRSS:"))
    return sum(int(line.split()[1]) / 1024 for line in lines)
