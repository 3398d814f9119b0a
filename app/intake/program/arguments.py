"""Checks for a program's values: names, tensors, symbolic sizes, operator arguments. Each returns a fresh value."""

import math
from typing import Any

from app.intake.parsing.names import MOST_CHARACTERS, is_identifier
from app.intake.parsing.typed import Check, Wrong, boolean, integer, list_of, nullable, one_of, record, text, union
from app.intake.program.symbols import expression
from app.intake.tensors.dtypes import BY_EXPORT_NUMBER

MAX_LIST = 20_000
MAX_RANK = 64
MAX_NAME = MOST_CHARACTERS + 64
"""torch makes the name of a value from a parameter's, a prefix and a number."""
LARGEST = 2**63 - 1
STRIDED = 7

_plain = text(r"[A-Za-z0-9_.,>+ -]{0,64}", "at most 64 plain characters")
_number = integer(-LARGEST - 1, LARGEST)
_size = integer(0, LARGEST)
_dtype = one_of(*BY_EXPORT_NUMBER)
_named_device = record(
    {"type": one_of("cpu", "cuda", "mps", "xpu", "hpu", "npu", "privateuseone"), "index": nullable(integer(0, 1023))},
    absent={"index": None},
)


def _device(value: Any) -> dict[str, Any]:
    """Return the device that the program is loaded to, whichever it was exported on: the cpu. Raises Wrong."""
    device: dict[str, Any] = _named_device(value)
    return device if device["type"] == "cpu" and not device["index"] else {"type": "cpu", "index": None}


def name(value: Any) -> str:
    """Check the name of a value, which torch writes into Python source. Raises Wrong."""
    if type(value) is not str or not _is_harmless(value):
        raise Wrong(f"must be an identifier of at most {MAX_NAME} characters that is no word of Python")
    return str(value)


def _is_harmless(value: str) -> bool:
    """Return whether torch can safely use the name; torch writes two underscores inside names, never in front."""
    return len(value) <= MAX_NAME and is_identifier(value) and not value.startswith("__") and value != "self"


def _float(value: Any) -> float | str:
    """Check a JSON number, or a word that torch writes for an infinity or NaN. Raises Wrong."""
    if type(value) is float and math.isfinite(value):  # JSON's 1e999 is infinite
        return value
    if value in ("Infinity", "-Infinity", "NaN"):
        return str(value)
    raise Wrong("must be a float")


def _none(value: Any) -> bool:
    """Check the value of `as_none`, which is always true. Raises Wrong."""
    if value is not True:
        raise Wrong("must be true")
    return True


_hint = nullable(union({"as_int": _number, "as_bool": boolean}))
_expr = record({"expr_str": expression, "hint": _hint}, absent={"hint": None})
sym_int = union({"as_expr": _expr, "as_int": _number})
sym_bool = union({"as_expr": _expr, "as_bool": boolean})
_sym_size = union({"as_expr": _expr, "as_int": _size})
tensor = record({"name": name})
_int_argument = union({"as_name": name, "as_int": _number})
_bool_argument = union({"as_name": name, "as_bool": boolean})
_optional = union({"as_tensor": tensor, "as_none": _none})

tensor_meta = record(
    {
        "dtype": _dtype,
        "sizes": list_of(_sym_size, MAX_RANK),
        "requires_grad": boolean,
        "device": _device,
        "strides": list_of(_sym_size, MAX_RANK),
        "storage_offset": _sym_size,
        "layout": one_of(STRIDED),
    }
)


def _list(check: Check) -> Check:
    return list_of(check, MAX_LIST)


_ARGUMENTS: dict[str, Check] = {
    "as_none": _none,
    "as_tensor": tensor,
    "as_tensors": _list(tensor),
    "as_optional_tensor": _optional,
    "as_optional_tensors": _list(_optional),
    "as_int": _number,
    "as_ints": _list(_number),
    "as_float": _float,
    "as_floats": _list(_float),
    "as_bool": boolean,
    "as_bools": _list(boolean),
    "as_string": _plain,
    "as_sym_int": _int_argument,
    "as_sym_ints": _list(_int_argument),
    "as_sym_bool": _bool_argument,
    "as_scalar_type": _dtype,
    "as_memory_format": integer(1, 4),
    "as_layout": one_of(STRIDED),
    "as_device": _device,
}
argument = union(_ARGUMENTS)
"""The arguments that an operator may take."""


def _some(*kinds: str) -> Check:
    return union({kind: _ARGUMENTS[kind] for kind in kinds})


output = _some("as_tensor", "as_tensors", "as_sym_int", "as_sym_bool", "as_none")
"""The results that an operator may return."""
placeholder = _some("as_tensor", "as_none", "as_int", "as_float", "as_bool", "as_string")
"""The inputs that a program may take; all but tensors are constants of the export."""
result = _some("as_tensor", "as_sym_int", "as_none", "as_int", "as_float", "as_bool")
"""The outputs that a program may return."""
constant = _some("as_none", "as_int", "as_float", "as_string", "as_bool")
