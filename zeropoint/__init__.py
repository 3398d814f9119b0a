"""Zeropoint's quantization library: models and samples in, quantized artifacts and a report out.

    from zeropoint import quantize, load

The API process reads `zeropoint.schema` and must never load torch, so the names below are imported when somebody asks
for them (PEP 562).
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zeropoint.entrypoints.api import quantize
    from zeropoint.errors import QuantizationError, QuantizationWarning
    from zeropoint.loading.plan import Plan
    from zeropoint.loading.quantized_model import QuantizedModel, load

__version__ = "0.1.0"
__all__ = [
    "Plan",
    "QuantizationError",
    "QuantizationWarning",
    "QuantizedModel",
    "__version__",
    "load",
    "quantize",
]

_HOMES = {
    "Plan": "loading.plan",
    "QuantizationError": "errors",
    "QuantizationWarning": "errors",
    "QuantizedModel": "loading.quantized_model",
    "load": "loading.quantized_model",
    "quantize": "entrypoints.api",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
