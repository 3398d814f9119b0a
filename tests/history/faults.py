"""What happens to a service beside the kills of the chaos run: parts freeze, the disk fills, a commit is cut."""

import resource
from collections.abc import Callable
from contextlib import suppress

from tests.chaos.killer import Killer, Way
from tests.chaos.parts import Part
from tests.chaos.service import WORKERS
from tests.reliability.cutting import Cut
from tests.service.processes import descendants

FULL_SECONDS = (0.3, 1.5)
WRITERS = ("api", *WORKERS)
FREEZES = ("api", "postgresql")
"""Workers freeze in the chaos run too."""


class Faults(Killer):
    """One fault after another while this is entered; in the end all is whole again."""

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._let_write()

    def _ways(self) -> list[list[Way]]:
        frozen = [self._service.parts[name] for name in FREEZES if name in self._service.parts]
        ways: list[list[Way]] = [[(f"{part.name} frozen", self._freezing(part))] for part in frozen]
        ways.append([("disk full", self._fill)])
        if self._service.wire:
            ways.append(
                [("a commit cut before", self._cutting("before")), ("a commit cut after", self._cutting("after"))]
            )
        return [*super()._ways(), *ways]

    def _fill(self) -> bool:
        """Let the API and the workers write no file, and nothing of theirs, until there is room again."""
        for name in WRITERS:
            limit_files(self._service.parts[name], 0)
        self._later(self._random.uniform(*FULL_SECONDS), self._let_write)
        return True

    def _let_write(self) -> None:
        for name in WRITERS:
            limit_files(self._service.parts[name], None)

    def _cutting(self, when: Cut) -> Callable[[], bool]:
        """The next commit of whoever comes first, of which nobody hears what became."""

        def cut() -> bool:
            assert self._service.wire is not None
            self._service.wire.cut = when
            return True

        return cut


def limit_files(part: Part, largest_bytes: int | None) -> None:
    """Limit the files of a part and of all that it started: a write beyond is refused as on a full disk."""
    for pid in descendants(part.pid) if part.pid else []:
        with suppress(ProcessLookupError):
            _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (most if largest_bytes is None else largest_bytes, most))
