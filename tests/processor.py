"""Whether libraries multiply 8-bit integers exactly on this processor, and what tests compare where they do not.

x86 without VNNI multiplies uint8 by int8 and adds two products in 16 bits, which saturate: the integer kernels of
onnxruntime and of compiled torch then give other numbers than the file says. There tests compare what runs in float
alone: the eager program, and a session that onnxruntime did not optimize.

ONEDNN_MAX_CPU_ISA takes VNNI from compiled torch alone, which oneDNN multiplies for; onnxruntime does not read it.
PRETEND_NO_VNNI=1 shows what tests do where there is none, on a processor that has it. Nothing else reads it.
"""

import os
from pathlib import Path

import pytest

EXACT = {"avx512_vnni", "avx_vnni", "asimddp", "i8mm"}
"""Any of these features is enough; the last two are those of ARM."""
SATURATING_ISAS = {"SSE41", "AVX", "AVX2", "AVX512_CORE"}


def is_exact(cpuinfo: str) -> bool:
    """Say whether a processor multiplies 8-bit integers without saturating, by what the system tells of it."""
    told = [line.partition(":")[2].split() for line in cpuinfo.splitlines() if line.startswith(("flags", "Features"))]
    return any(not EXACT.isdisjoint(words) for words in told)


EXACT_ONNXRUNTIME = is_exact(Path("/proc/cpuinfo").read_text()) and os.environ.get("PRETEND_NO_VNNI") != "1"
EXACT_COMPILED = EXACT_ONNXRUNTIME and os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() not in SATURATING_ISAS

needs_exact_onnxruntime = pytest.mark.skipif(
    not EXACT_ONNXRUNTIME,
    reason="no VNNI, onnxruntime's optimized int8 kernels saturate: compared the unoptimized session and the program",
)
needs_exact_compiled = pytest.mark.skipif(
    not EXACT_COMPILED, reason="no VNNI, the compiled program's int8 kernels saturate: compared the eager program"
)
