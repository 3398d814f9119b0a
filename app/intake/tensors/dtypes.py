"""Element types: torch's names for them, and how safetensors and torch.export write them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Dtype:
    """An element type: name, bytes per element, number in a torch.export archive, code in safetensors."""

    name: str
    bytes: int
    export_number: int
    safetensors_code: str | None


_DTYPES = (
    Dtype("uint8", 1, 1, "U8"),
    Dtype("int8", 1, 2, "I8"),
    Dtype("int16", 2, 3, "I16"),
    Dtype("int32", 4, 4, "I32"),
    Dtype("int64", 8, 5, "I64"),
    Dtype("float16", 2, 6, "F16"),
    Dtype("float32", 4, 7, "F32"),
    Dtype("float64", 8, 8, "F64"),
    Dtype("complex64", 8, 10, None),
    Dtype("complex128", 16, 11, None),
    Dtype("bool", 1, 12, "BOOL"),
    Dtype("bfloat16", 2, 13, "BF16"),
    Dtype("uint16", 2, 28, "U16"),
    Dtype("uint32", 4, 34, "U32"),
    Dtype("uint64", 8, 35, "U64"),
)

BY_NAME = {dtype.name: dtype for dtype in _DTYPES}
BY_EXPORT_NUMBER = {dtype.export_number: dtype for dtype in _DTYPES}
BY_SAFETENSORS_CODE = {dtype.safetensors_code: dtype for dtype in _DTYPES if dtype.safetensors_code}
