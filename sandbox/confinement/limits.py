"""rlimits and the like: how much of the machine one process may use."""

import os
import resource
from contextlib import suppress
from pathlib import Path

OPEN_FILES = 1024
OOM_SCORE = 1000
CPU_GRACE_SECONDS = 10


def apply(cpu_seconds: int, file_bytes: int, address_space_bytes: int | None) -> None:
    """Lower the limits of this process and its children, soft and hard alike, so that nothing raises them again."""
    os.umask(0o077)
    with suppress(OSError):  # of all processes this one goes first when memory runs out
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_NOFILE, OPEN_FILES)
    _lower(resource.RLIMIT_FSIZE, file_bytes)
    # SIGXCPU says why; who ignores it is killed a little later.
    _lower(resource.RLIMIT_CPU, cpu_seconds, cpu_seconds + CPU_GRACE_SECONDS)
    if address_space_bytes is not None:
        _lower(resource.RLIMIT_AS, address_space_bytes)
    # No RLIMIT_NPROC: it counts all processes of the user, the worker's among them.


def _lower(kind: int, soft: int, hard: int | None = None) -> None:
    allowed = resource.getrlimit(kind)[1]
    requested = soft if hard is None else hard
    hard = requested if allowed == resource.RLIM_INFINITY else min(requested, allowed)
    resource.setrlimit(kind, (min(soft, hard), hard))
