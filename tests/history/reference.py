"""Histories of a service that keeps every promise: an object in memory, and callers who see it at some time between
the two of each request. Some answers are lost, and then the request took effect or not.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from random import Random

from app.jobs.status import HELD, MOVES, TERMINAL, JobState, Move
from tests.history.records import Event, File, Kind, Listed, Operation, Outcome

NAMES = ("manifest.json", "model.safetensors")
LOST_SHARE = 0.15
TICK_SECONDS = 0.001
"""By the clock of the database: whatever is cancelled ends soon after."""


@dataclass
class Job:
    id: str
    key: str
    state: JobState = JobState.QUEUED
    events: list[Event] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    def move(self, by: Move, tick: int) -> None:
        if by.target is JobState.RUNNING:
            self.tokens.append(len(self.tokens) + 1)
        self.become(by.target, tick)

    def become(self, state: JobState, tick: int) -> None:
        self.state = state
        self.events.append(Event(len(self.events) + 1, str(state), tick * TICK_SECONDS))

    @property
    def files(self) -> tuple[File, ...]:
        if self.state is not JobState.SUCCEEDED:
            return ()
        digests = {name: hashlib.sha256(f"{self.id} {name}".encode()).hexdigest() for name in NAMES}
        return tuple(File(name, sha256, sha256) for name, sha256 in digests.items())


class Reference:
    """A service in memory, its callers, and the history that they write."""

    def __init__(self, random: Random) -> None:
        self.history: list[Operation] = []
        self._random = random
        self._tick = 0
        self._made = 0
        self._jobs: dict[str, Job] = {}
        self._uploads: list[str] = []
        self._deleted: set[str] = set()

    def run(self, ticks: int) -> None:
        """Let things happen, then let every job end, and look at all of them."""
        requests: Sequence[Callable[[], Operation | None]] = (
            *(self._submit, self._read, self._cancel, self._jobs_list, self._log, self._files, self._download),
            *(self._upload, self._delete, self._read_upload, self._upload_list),
        )
        for _ in range(ticks):
            self._tick += 1
            if self._random.random() < 0.4:
                self._work()
            elif operation := self._random.choice(requests)():
                self.history.append(self._told(operation))
        while any(job.state not in TERMINAL for job in self._jobs.values()):
            self._tick += 1
            self._work()
        self._tick += 10
        self.history += [self._jobs_list(), self._upload_list()]
        self.history += [one for job in self._jobs.values() for one in self._looks_at(job)]

    def _work(self) -> None:
        live = [job for job in self._jobs.values() if job.state not in TERMINAL]
        if live:
            job = self._random.choice(live)
            name = self._random.choice([name for name, move in MOVES.items() if job.state in move.sources])
            if name not in ("drop", "recall"):  # those are callers'
                job.move(MOVES[name], self._tick)

    def _told(self, operation: Operation) -> Operation:
        """As its caller heard of it, if at all."""
        if self._random.random() >= LOST_SHARE:
            return operation
        return Operation(operation.kind, operation.target, operation.invoked, inf, Outcome.UNKNOWN, status=0)

    def _operation(self, kind: Kind, target: str = "") -> Operation:
        before, after = self._random.uniform(0.01, 3), self._random.uniform(0.01, 3)
        return Operation(kind, target, self._tick - before, self._tick + after)

    def _refused(self, kind: Kind, target: str, status: int) -> Operation:
        return replace(self._operation(kind, target), outcome=Outcome.FAIL, status=status)

    def _new_id(self, prefix: str) -> str:
        self._made += 1
        return f"{prefix}_{self._made:06}"

    def _any(self) -> Job | None:
        return self._random.choice(list(self._jobs.values())) if self._jobs else None

    def _submit(self) -> Operation:
        key = f"key {self._random.randrange(12)}"
        same = [job for job in self._jobs.values() if job.key == key]
        job = same[0] if same else Job(self._new_id("job"), key)
        if not same:
            job.become(JobState.QUEUED, self._tick)
            self._jobs[job.id] = job
        return replace(self._operation(Kind.SUBMIT, key), id=job.id, state=str(job.state))

    def _read(self) -> Operation | None:
        job = self._any()
        return replace(self._operation(Kind.READ, job.id), id=job.id, state=str(job.state)) if job else None

    def _cancel(self) -> Operation | None:
        job = self._any()
        if job is None:
            return None
        if job.state in TERMINAL - {JobState.CANCELLED}:
            return self._refused(Kind.CANCEL, job.id, 409)
        if job.state is JobState.QUEUED:
            job.move(MOVES["drop"], self._tick)
        elif job.state in HELD - {JobState.CANCELLING}:
            job.move(MOVES["recall"], self._tick)
        return replace(self._operation(Kind.CANCEL, job.id), id=job.id, state=str(job.state))

    def _jobs_list(self) -> Operation:
        rows = sorted(self._jobs.values(), key=lambda job: job.id, reverse=True)
        jobs = tuple(Listed(job.id, str(job.state), job.key) for job in rows)
        return replace(self._operation(Kind.JOBS), jobs=jobs)

    def _log(self) -> Operation | None:
        job = self._any()
        return self._random.choice(list(self._looks_at(job))[:2]) if job else None

    def _looks_at(self, job: Job) -> Iterator[Operation]:
        yield replace(self._operation(Kind.EVENTS, job.id), events=tuple(job.events))
        yield replace(self._operation(Kind.ATTEMPTS, job.id), tokens=tuple(job.tokens))
        yield replace(self._operation(Kind.ARTIFACTS, job.id), files=job.files)

    def _files(self) -> Operation | None:
        job = self._any()
        return list(self._looks_at(job))[2] if job else None

    def _download(self) -> Operation | None:
        job = self._any()
        if job is None:
            return None
        if not job.files:
            return self._refused(Kind.DOWNLOAD, job.id, 404)
        return replace(self._operation(Kind.DOWNLOAD, job.id), files=(self._random.choice(job.files),))

    def _upload(self) -> Operation:
        self._uploads.append(self._new_id("dts"))
        return replace(self._operation(Kind.UPLOAD), id=self._uploads[-1])

    def _delete(self) -> Operation | None:
        if not self._uploads:
            return None
        upload = self._random.choice(self._uploads)
        if upload in self._deleted:
            return self._refused(Kind.DELETE, upload, 404)
        self._deleted.add(upload)
        return self._operation(Kind.DELETE, upload)

    def _read_upload(self) -> Operation | None:
        if not self._uploads:
            return None
        upload = self._random.choice(self._uploads)
        gone = upload in self._deleted
        return self._refused(Kind.READ_UPLOAD, upload, 404) if gone else self._operation(Kind.READ_UPLOAD, upload)

    def _upload_list(self) -> Operation:
        kept = tuple(upload for upload in reversed(self._uploads) if upload not in self._deleted)
        return replace(self._operation(Kind.UPLOADS), uploads=kept)
