"""What the system denied is told as such, however deep it lies."""

import errno
import os

import pytest
import torch

from zeropoint.entrypoints.failures import death_by
from zeropoint.errors import InvalidModel
from zeropoint.schema.recipe import Recipe


def refusal() -> InvalidModel:
    return InvalidModel("program_invalid", "It can't be loaded.", "Export it again.")


def wrapped(error: Exception) -> Exception:
    try:
        try:
            raise error
        except Exception as cause:
            raise RuntimeError("unpickling failed") from cause
    except RuntimeError as middle:
        try:
            raise refusal() from middle
        except InvalidModel as found:
            return found


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError(), "out_of_memory"),
        (torch.OutOfMemoryError("CUDA"), "out_of_memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out_of_memory"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "disk_limit"),
        (OSError(errno.EFBIG, os.strerror(errno.EFBIG)), "disk_limit"),
        (PermissionError(errno.EPERM, "Operation not permitted"), "sandbox_violation"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_death_is_told_whether_it_is_bare_or_below_a_refusal(error: Exception, code: str) -> None:
    for found in (death_by(error, "loading", Recipe()), death_by(wrapped(error), "loading", Recipe())):
        assert found is not None
        assert (found.code, found.phase) == (code, "loading")
        assert found.remedy


@pytest.mark.parametrize("error", [refusal(), ValueError("no"), wrapped(ValueError("no"))])
def test_a_refusal_is_no_death(error: Exception) -> None:
    assert death_by(error, "loading", Recipe()) is None
