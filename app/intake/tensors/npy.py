"""Read numpy's .npy: a magic number, a header that looks like a Python dict, the bytes. The header is never evaluated.

The file must hold one tensor of plain numbers in row-major order: objects would be pickles, and models take no records.
"""

import math
import re
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from app.errors import Invalid
from app.intake.tensors.dtypes import BY_NAME
from app.intake.tensors.safetensors import MAX_RANK, Stored, is_countable, read_range

MAGIC = b"\x93NUMPY"
MAX_HEADER_BYTES = 4096
HEAD_BYTES = 12 + MAX_HEADER_BYTES
"""The first bytes of a file that include the whole header."""

SAVE_SAMPLES = (
    "Save the samples with safetensors: save_file({'x': samples}, 'data.safetensors'), one tensor for each model input."
)

_DTYPES = {
    "|b1": "bool",
    "|u1": "uint8",
    "|i1": "int8",
    "<i2": "int16",
    "<i4": "int32",
    "<i8": "int64",
    "<u2": "uint16",
    "<u4": "uint32",
    "<u8": "uint64",
    "<f2": "float16",
    "<f4": "float32",
    "<f8": "float64",
}
_LENGTH_BYTES = {b"\1\0": 2, b"\2\0": 4, b"\3\0": 4}
_SIZES = r"(?:\d{1,19},(?: *\d{1,19}(?:, *\d{1,19})*,?)?)?"
_ENTRY = rf"(?:'descr': *'[^'\\]{{1,16}}'|'fortran_order': *(?:True|False)|'shape': *\({_SIZES}\))"
_HEADER = re.compile(rf"\{{ *{_ENTRY}, *{_ENTRY}, *{_ENTRY} *,? *\}} *\n?")
_FOUND = re.compile(r"'(descr|fortran_order|shape)': *(?:'([^']+)'|(True|False)|\(([^)]*)\))")
_PICKLED = re.compile(r"'descr': *(?:'[|<>=]?O|\[)")


@dataclass(frozen=True)
class Header:
    """The contents of an .npy header, and its length in bytes."""

    dtype: str
    shape: tuple[int, ...]
    bytes: int


def refused(detail: str, remedy: str = SAVE_SAMPLES) -> Invalid:
    """Return the refusal of a dataset."""
    return Invalid("dataset_invalid", detail, remedy)


def read_npy(path: Path, name: str) -> Stored:
    """Read the header of a file. Raises Invalid unless the file is as long as the header says."""
    size = path.stat().st_size
    with path.open("rb") as file:
        header = read_header(file.read(HEAD_BYTES), size, name)
    return Stored(name, header.dtype, header.shape, partial(read_range, path, header.bytes, size - header.bytes))


def read_header(head: bytes, size: int, name: str) -> Header:
    """Read the header from the first HEAD_BYTES of a file of `size` bytes. Raises Invalid."""
    length_bytes = _LENGTH_BYTES.get(head[6:8])
    if not head.startswith(MAGIC) or length_bytes is None:
        raise refused(f"{name}: the bytes are not an .npy of version 1, 2 or 3.")
    start = 8 + length_bytes
    length = int.from_bytes(head[8:start], "little")
    if length > MAX_HEADER_BYTES or start + length > len(head):
        raise refused(
            f"{name}: the .npy header claims {length} bytes, more than the file has or the {MAX_HEADER_BYTES} accepted."
        )
    header = replace(_parse(head[start : start + length].decode("latin-1"), name), bytes=start + length)
    tensor_bytes = math.prod(header.shape) * BY_NAME[header.dtype].bytes
    if header.bytes + tensor_bytes != size:
        claim = f"{header.dtype} {list(header.shape)} takes {tensor_bytes} bytes"
        raise refused(f"{name}: {claim}, the file has {size - header.bytes}.")
    return header


def _parse(text: str, name: str) -> Header:
    if _PICKLED.search(text):
        raise refused(f"{name}: the .npy holds Python objects or records; only plain numbers are accepted.")
    entries = {key: values for key, *values in _FOUND.findall(text)}
    if not _HEADER.fullmatch(text) or len(entries) != len(("descr", "fortran_order", "shape")):
        raise refused(f"{name}: the .npy header is not what numpy writes.")
    descr, order, shape = entries["descr"][0], entries["fortran_order"][1], entries["shape"][2]
    if order == "True":
        raise refused(
            f"{name}: the .npy is in Fortran order.", "Save it in C order: np.save(f, np.ascontiguousarray(a))."
        )
    if descr.startswith(">"):
        raise refused(
            f"{name}: the .npy is big-endian.", "Save it as little-endian: a.astype(a.dtype.newbyteorder('<'))."
        )
    sizes = tuple(int(size) for size in re.findall(r"\d+", shape))
    if descr not in _DTYPES:
        raise refused(f"{name}: this dtype is not supported; supported are {', '.join(_DTYPES.values())}.")
    if len(sizes) > MAX_RANK or not is_countable(sizes, _DTYPES[descr]):
        raise refused(f"{name}: the .npy header is not what numpy writes.")
    return Header(_DTYPES[descr], sizes, 0)
