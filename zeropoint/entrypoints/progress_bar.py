"""Progress: a bar on a terminal or in a notebook when the work takes longer than two seconds, or a callback."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, get_args

from tqdm.auto import tqdm

from zeropoint.schema.job import Phase, PhaseCallback, Progress

DELAY_SECONDS = 2.0
PHASES: tuple[Phase, ...] = tuple(phase for phase in get_args(Phase) if phase != "publishing")
"""The phases of a quantization in their order; publishing is the service's own."""


@contextmanager
def shown(progress: PhaseCallback | Literal[False] | None) -> Iterator[Callable[[Progress], None]]:
    """Yield the function that receives every step. None: a bar if it would be seen; False: nothing is shown."""
    if callable(progress):
        callback = progress
        yield lambda step: _ignore(callback(step.phase, step.done, step.total))
    elif progress is False or not _is_visible():
        yield _ignore
    else:
        # one bar for all phases: `delay` counts from the beginning of the work, not of a phase
        layout = "{desc} |{bar}| {percentage:3.0f}% {elapsed}"
        with tqdm(total=len(PHASES), delay=DELAY_SECONDS, miniters=0, bar_format=layout, file=sys.stderr) as bar:
            yield lambda step: _draw(bar, step)


def position(step: Progress) -> float:
    """Return how far a step is, in phases: 1.5 is the middle of the second one."""
    return PHASES.index(step.phase) + (step.done / step.total if step.total else 0.0)


def _draw(bar: "tqdm[object]", step: Progress) -> None:
    of = f"/{step.total}" if step.total else ""
    bar.set_description_str(f"{step.phase} {step.done}{of}", refresh=False)
    bar.update(max(0.0, min(position(step), len(PHASES)) - bar.n))


def _is_visible() -> bool:
    """Return whether a bar would be seen, on a terminal or in a notebook, whose standard error is no terminal."""
    return sys.stderr.isatty() or any(kind.__module__ == "tqdm.notebook" for kind in tqdm.__mro__)


def _ignore(_: object) -> None:
    """Ignore a step."""
