"""What the worker knows of the files that a job wrote."""

from worker.outputs.inspection import BITS
from zeropoint.files.safetensors import CODES


def test_every_dtype_that_the_library_writes_is_known() -> None:
    assert {code: 8 * dtype.itemsize for dtype, code in CODES.items()} == BITS
