"""Zeropoint's quantization library: tensors and programs in, quantized artifacts and a report out.

    from quantization import quantize, load

The API process reads `quantization.recipe` and must never load torch on the way, so the names below are imported when
somebody asks for them (PEP 562).
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quantization.interface import quantize
    from quantization.quantized_model import QuantizedModel, load

__all__ = ["QuantizedModel", "load", "quantize"]

_HOMES = {"QuantizedModel": "quantized_model", "load": "quantized_model", "quantize": "interface"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
