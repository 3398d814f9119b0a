"""Watches a child: its progress, its memory and disk, its time, and whether its job is still to be done."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from app.jobs import claims
from app.jobs.claims import Claim, ClaimStatus
from app.jobs.endings import Measured
from sandbox.policy import Sandbox
from worker.child.evidence import Evidence, KillWatch
from worker.child.prestarted import PrestartedChild
from worker.child.process import Child
from worker.child.progress import PhaseTime, ProgressWatch
from worker.child.usage import Excess, UsageWatch
from worker.heartbeat import Heartbeat
from zeropoint.schema.job import EXIT_OK, Phase

TICK_SECONDS = 0.2

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChildExit:
    """How the child ended: by itself (claim status GO_ON, no excess, not overdue), or because it was stopped."""

    exit_code: int
    claim_status: ClaimStatus
    overdue: bool
    excess: Excess | None
    phase: Phase | None
    peak_memory_bytes: int
    last_words: str
    phases: tuple[PhaseTime, ...] = ()
    evidence: Evidence | None = None
    """Which limit of the system's killed it, if it was killed and anything speaks for one."""

    @property
    def measured(self) -> Measured:
        """Return what is kept of the attempt; of its phases those that ended."""
        return Measured(self.peak_memory_bytes, {one.phase: one.seconds for one in self.phases if one.ended})


def watch(
    prestarted: PrestartedChild, claim: Claim, sandbox: Sandbox, heartbeat: Heartbeat, each_tick: Callable[[], None]
) -> ChildExit:
    """Watch a running child until it has ended or must be stopped; return how it ended."""
    child, progress = prestarted.child, ProgressWatch()
    usage = UsageWatch(child.pid, prestarted.folder.path, sandbox.memory_bytes, sandbox.disk_bytes)
    kills = KillWatch(child.pid, sandbox.cpu_seconds)
    deadline = time.monotonic() + claim.running_seconds
    claim_status = heartbeat.claim_status
    while not child.ended and claim_status is ClaimStatus.GO_ON and not usage.excess and time.monotonic() < deadline:
        _listen(child, progress)
        usage.look()
        kills.look()
        _report(claim, heartbeat, progress)
        each_tick()
        claim_status = heartbeat.claim_status
    # Work that had already ended is judged by itself: whether it may still be recorded, its token decides.
    stopped = not child.ended
    exit_code = child.stop()
    for line in child.read(0):
        progress.feed(line)
    _report(claim, heartbeat, progress)
    log.info("child %s ended with %s in phase %s", child.pid, exit_code, progress.phase)
    return ChildExit(
        exit_code=exit_code,
        claim_status=claim_status if stopped else ClaimStatus.GO_ON,
        overdue=stopped and claim_status is ClaimStatus.GO_ON,
        excess=usage.excess if stopped else None,
        phase=progress.phase,
        peak_memory_bytes=usage.peak_memory_bytes,
        last_words=child.last_words,
        phases=progress.times(ended=not stopped and exit_code == EXIT_OK),
        evidence=kills.evidence(usage.peak_memory_bytes, sandbox.memory_bytes),
    )


def _listen(child: Child, progress: ProgressWatch) -> None:
    """Read the child's output for one tick, however much it writes."""
    until = time.monotonic() + TICK_SECONDS
    while not child.ended and (seconds := until - time.monotonic()) > 0:
        for line in child.read(seconds):
            progress.feed(line)


def _report(claim: Claim, heartbeat: Heartbeat, progress: ProgressWatch) -> None:
    for reading in progress.due():
        write = partial(claims.report_progress, claim=claim, progress=reading.progress, eta_seconds=reading.eta_seconds)
        heartbeat.report(write)
