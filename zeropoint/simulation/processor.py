"""The level of this machine's processor: which integer kernels libraries take, and whether these saturate."""

import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from zeropoint.schema.runtimes import ProcessorLevel

BY_FEATURE: Mapping[str, ProcessorLevel] = {
    "amx_int8": "amx_int8",
    "avx512_vnni": "avx512_vnni",
    "avx_vnni": "avx_vnni",
    "avx512bw": "avx512",
    "avx2": "avx2",
    "i8mm": "i8mm",
    "asimddp": "asimddp",
}
"""Features as Linux names them, the best one first."""
SATURATING: Collection[ProcessorLevel] = ("avx2", "avx512")
"""Levels at which two products are added in 16 bits."""
LOWEST: ProcessorLevel = "avx2"
"""The level that the kernels of others saturate like; what oneDNN can be told to stay at."""
ONEDNN_LEVELS: Mapping[str, ProcessorLevel] = {
    **dict.fromkeys(("SSE41", "AVX", "AVX2"), "avx2"),
    **dict.fromkeys(("AVX512_CORE",), "avx512"),
    **dict.fromkeys(("AVX2_VNNI", "AVX2_VNNI_2"), "avx_vnni"),
    **dict.fromkeys(("AVX512_CORE_VNNI", "AVX512_CORE_BF16", "AVX512_CORE_FP16"), "avx512_vnni"),
}
"""What ONEDNN_MAX_CPU_ISA may say, for torch alone."""


def level_of(features: Collection[str]) -> ProcessorLevel:
    """Return the level of a processor with these features."""
    return next((level for feature, level in BY_FEATURE.items() if feature in features), "other")


def this_level() -> ProcessorLevel:
    """Return the level of this machine's processor; "other" where Linux doesn't say."""
    return level_of(_features(_described()))


def features() -> str:
    """Return the processor's model and what it has for integers, as Linux names them."""
    lines = _described()
    if not lines:
        return "processor not known"
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "processor")
    known = [feature for feature in BY_FEATURE if feature in _features(lines)]
    return f"{model}: {', '.join(known) or 'nothing for integers'}"


def _described() -> list[str]:
    """Return what Linux says of the processor; nothing elsewhere."""
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []


def _features(lines: Iterable[str]) -> list[str]:
    return next((line.split() for line in lines if line.startswith(("flags", "Features"))), [])


def torch_level() -> ProcessorLevel:
    """Return the level that oneDNN works at: the processor's, or a lower one that its own variable names."""
    own, asked = this_level(), os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()  # noqa: TID251 - the library's own
    limit = ONEDNN_LEVELS.get(asked, own)
    order = list(BY_FEATURE.values())
    return limit if own in order and order.index(limit) > order.index(own) else own


def lower_level(level: ProcessorLevel) -> ProcessorLevel | None:
    """Return the lower level that users of the same file may have; None where there is none below."""
    return LOWEST if level in ("amx_int8", "avx512_vnni", "avx_vnni", "avx512") else None
