"""What the system denied the program, as words for the API's user: memory, room on the disk, or leave to do something.

Libraries wrap what they meet, and so do we: the cause of an error may lie below a refusal that blames the upload.
"""

import errno
import os
from collections.abc import Iterator

import torch

from zeropoint.schema.failures import less_on_disk, smaller_batch
from zeropoint.schema.job import Failure, Phase
from zeropoint.schema.recipe import Recipe

NO_ROOM = (errno.EFBIG, errno.ENOSPC, errno.EDQUOT)


def death_by(error: BaseException, phase: Phase, recipe: Recipe) -> Failure | None:
    """The failure that `error` comes from, if the system denied something; None when it did not."""
    causes = list(_causes(error))
    if any(map(_is_memory, causes)):
        return _out_of_memory(phase, recipe)
    if any(map(_is_disk, causes)):
        return _disk_limit(phase, recipe)
    if any(isinstance(cause, PermissionError) for cause in causes):
        return _sandbox_violation(phase)
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _is_memory(error: BaseException) -> bool:
    """Python, CUDA and torch's CPU allocator each say it in their own way."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _is_disk(error: BaseException) -> bool:
    """Python and safetensors say it in the system's words. (torch's archive writer ends the process: a crash.)"""
    return any(os.strerror(number) in str(error) for number in NO_ROOM)


def _out_of_memory(phase: Phase, recipe: Recipe) -> Failure:
    return Failure(
        code="out_of_memory",
        title="Memory ran out",
        detail=f"There was not enough memory while {phase}.",
        remedy=f"{smaller_batch(recipe)}, or use a worker with more memory.",
        phase=phase,
    )


def _disk_limit(phase: Phase, recipe: Recipe) -> Failure:
    return Failure(
        code="disk_limit",
        title="The job's files are too large",
        detail=f"A file could not grow while {phase}: the job's limit was reached, or the disk is full.",
        remedy=f"{less_on_disk(recipe)}, or ask the operator for more room.",
        phase=phase,
    )


def _sandbox_violation(phase: Phase) -> Failure:
    return Failure(
        code="sandbox_violation",
        title="The job did what no job may",
        detail=f"The program asked the system for something that it never needs while {phase}, and did not get it.",
        remedy="Export the model anew with a torch that you trust; if it ends so again, report the job's id.",
        phase=phase,
    )
