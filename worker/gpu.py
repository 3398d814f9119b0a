"""Memory and use of GPUs, from the driver's own library (NVML): no CUDA context, no program to start."""

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass

LIBRARY = "libnvidia-ml.so.1"


class _Memory(ctypes.Structure):
    """nvmlMemory_t: bytes."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class _Utilization(ctypes.Structure):
    """nvmlUtilization_t: per cent of the last moment."""

    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


@dataclass(frozen=True)
class Gpu:
    """One of this machine's: its number, bytes of memory in all and in use, and the share of time that it computed."""

    number: int
    memory_bytes: int
    used_bytes: int
    busy: float


def gpus(library: str = LIBRARY) -> list[Gpu]:
    """Return the GPUs of this machine; none where there is no driver, or it does not answer."""
    try:
        nvml = ctypes.CDLL(library)
        if nvml.nvmlInit_v2():
            return []
    except (OSError, AttributeError):
        return []
    try:
        return list(_read(nvml))
    finally:
        nvml.nvmlShutdown()


def _read(nvml: ctypes.CDLL) -> Iterator[Gpu]:
    count = ctypes.c_uint()
    nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
    for number in range(count.value):
        device, memory, use = ctypes.c_void_p(), _Memory(), _Utilization()
        if nvml.nvmlDeviceGetHandleByIndex_v2(number, ctypes.byref(device)):
            continue
        if nvml.nvmlDeviceGetMemoryInfo(device, ctypes.byref(memory)):
            continue
        # A share of a GPU (MIG) has memory of its own, and no measure of its use.
        nvml.nvmlDeviceGetUtilizationRates(device, ctypes.byref(use))
        yield Gpu(number, memory.total, memory.used, use.gpu / 100)
