"""What callers remember: each request with the times around it, and what came of it."""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

SHED = (503, 507)
"""How a service refuses that lacks something for the moment."""


class Kind(StrEnum):
    """What was asked."""

    SUBMIT = "submit"
    READ = "read"
    CANCEL = "cancel"
    EVENTS = "events"
    ATTEMPTS = "attempts"
    ARTIFACTS = "artifacts"
    DOWNLOAD = "download"
    JOBS = "jobs"
    UPLOAD = "upload"
    READ_UPLOAD = "read upload"
    DELETE = "delete"
    UPLOADS = "uploads"


OF_JOBS = frozenset(Kind) - {Kind.UPLOAD, Kind.READ_UPLOAD, Kind.DELETE, Kind.UPLOADS}


class Outcome(StrEnum):
    OK = "ok"
    FAIL = "fail"
    """Refused: it had no effect and never will."""
    UNKNOWN = "unknown"
    """The answer was lost, or leaves it open: it may take effect at any time after it began, or never."""


class Listed(NamedTuple):
    """A job in a list."""

    id: str
    state: str
    key: str


class Event(NamedTuple):
    """A change of a job's state, in seconds by the database's clock."""

    seq: int
    state: str
    at: float


class File(NamedTuple):
    """An artifact as it is listed, or as it came: `sha256` of its bytes, `tag` as the answer's header says."""

    name: str
    sha256: str
    tag: str


@dataclass(frozen=True)
class Operation:
    """One request of one caller. Times are those of one clock; it took effect between them if it did.

    `target` is the key of a submit, nothing for lists and uploads, and else an id.
    """

    kind: Kind
    target: str
    invoked: float
    ended: float
    outcome: Outcome = Outcome.OK
    status: int = 200
    id: str = ""
    """Of the job or the upload that the answer speaks of."""
    state: str = ""
    """Of the job in the answer."""
    jobs: tuple[Listed, ...] = ()
    """Of every page of the list."""
    uploads: tuple[str, ...] = ()
    """The same."""
    events: tuple[Event, ...] = ()
    tokens: tuple[int, ...] = ()
    """Of the job's attempts."""
    files: tuple[File, ...] = ()

    @property
    def ok(self) -> bool:
        return self.outcome is Outcome.OK

    @property
    def unknown(self) -> bool:
        return self.outcome is Outcome.UNKNOWN

    @property
    def is_list(self) -> bool:
        return self.kind in (Kind.JOBS, Kind.UPLOADS)

    @property
    def listed(self) -> tuple[str, ...]:
        """The ids of a list."""
        return self.uploads or tuple(job.id for job in self.jobs)

    @property
    def found(self) -> set[str]:
        """The ids of jobs or uploads that were there while it was asked."""
        if not self.ok:
            return set()
        return set(self.listed) if self.is_list else {self.id or self.target}

    @property
    def log(self) -> tuple[object, ...]:
        """What only grows."""
        return self.events or self.tokens

    def __str__(self) -> str:
        words = filter(None, (self.target, self.id, self.state))
        return f"{self.kind} {' '.join(words)} at {self.invoked:.3f} to {self.ended:.3f}: {self.outcome} {self.status}"
