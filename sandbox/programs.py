"""The programs that may run confined, by name.

A program is a module with `main(lock_down, *arguments) -> int`. It is imported once its process is confined, and calls
`lock_down` before it opens an upload: from there on, no other program starts.
"""

from collections.abc import Mapping
from dataclasses import dataclass

_WARMUP = "zeropoint.entrypoints.warmup"


@dataclass(frozen=True)
class Program:
    """The module that a confined process becomes.

    Attributes:
        module: dotted name of the module that holds `main`.
        preload: module to import before it, with what torch would otherwise import while a job waits; None: nothing.
    """

    module: str
    preload: str | None = None


PROGRAMS: Mapping[str, Program] = {
    "job": Program("zeropoint.entrypoints.job", _WARMUP),
    "describe": Program("zeropoint.entrypoints.describe", _WARMUP),
    "gate": Program("app.intake.child"),
    "probe": Program("sandbox.probe"),
}
