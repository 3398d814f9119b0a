"""A process ends with the one that started it, however that one ends. Linux only."""

import ctypes
import os
import signal

PR_SET_PDEATHSIG = 1

# Looked up before any fork: between fork and exec nothing may take a lock.
_prctl = ctypes.CDLL(None).prctl


def die_with(parent: int, by: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel end this process with the thread of `parent` that started or adopted it, by a signal."""
    _prctl(PR_SET_PDEATHSIG, by)
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)
