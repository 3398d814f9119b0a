"""Turn an exception into a failure: the system denied memory, disk space or a permission, or the user's model failed.

Exceptions get wrapped, by libraries and by us: below an error that blames the upload, the cause may be the system.
"""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from zeropoint.errors import ModelFailed, QuantizationError
from zeropoint.model.failure import FloatFailure, float_failure
from zeropoint.model.source import Source
from zeropoint.schema.failures import describe_failure
from zeropoint.schema.job import Failure, Phase
from zeropoint.schema.recipe import Recipe

REPAIR = (
    "Run the float model on these samples yourself. Repair the samples (a batch dimension in front, sizes that fit, "
    "indices in range), or export a model that takes them."
)
NO_ROOM = (errno.EFBIG, errno.ENOSPC, errno.EDQUOT)


def death_by(error: BaseException, phase: Phase, recipe: Recipe) -> Failure | None:
    """Return the failure that `error` comes from, if the system denied something; None when it did not."""
    causes = list(_causes(error))
    if any(map(_is_memory, causes)):
        return describe_failure("out_of_memory", phase, recipe)
    if any(map(_is_disk, causes)):
        return describe_failure("disk_limit", phase, recipe)
    if any(isinstance(cause, PermissionError) for cause in causes):
        return describe_failure("sandbox_violation", phase)
    return None


@contextmanager
def model_errors(source: Source, phase: Callable[[], Phase]) -> Iterator[None]:
    """Raise ModelFailed in place of an unexpected error, if the float model alone raises one on the same batch.

    Every other error passes: it is ours. So does a lack of memory.
    """
    try:
        yield
    except (QuantizationError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        failure = None if death_by(error, phase(), Recipe()) else float_failure(source)
        if failure is None:
            raise
        raise model_failed(failure, phase()) from failure.error


def model_failed(failure: FloatFailure, phase: Phase) -> ModelFailed:
    """Return the error for a float model that fails, with where, what torch says, and the batch."""
    where = f" in {failure.where}" if failure.where else ""
    return ModelFailed(
        "model_failed",
        f"The float model fails while {phase}{where}: {failure.text}. The batch: {failure.batch}.",
        f"{_convert(failure)}{REPAIR}",
    )


def _convert(failure: FloatFailure) -> str:
    dtype = failure.dtype
    return f"The model's weights are {dtype}: convert the samples, tensor.to({dtype}). Otherwise: " if dtype else ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _is_memory(error: BaseException) -> bool:
    """Return whether memory ran out; Python, CUDA and torch's CPU allocator each report it in their own way."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _is_disk(error: BaseException) -> bool:
    """Return whether Python or safetensors reports a full disk. (torch's archive writer crashes instead.)"""
    return any(os.strerror(number) in str(error) for number in NO_ROOM)
