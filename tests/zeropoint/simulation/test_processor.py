"""The level of a processor, by what Linux and oneDNN's own variable say."""

import pytest

from zeropoint.schema.runtimes import ProcessorLevel
from zeropoint.simulation.processor import LOWEST, SATURATING, level_of, lower_level, this_level, torch_level

FEATURES: dict[str, ProcessorLevel] = {
    "sse4_2": "other",
    "avx2 fma": "avx2",
    "avx2 avx512f avx512bw": "avx512",
    "avx2 avx_vnni": "avx_vnni",
    "avx2 avx512bw avx512_vnni": "avx512_vnni",
    "avx2 avx512bw avx512_vnni avx_vnni amx_int8 amx_tile": "amx_int8",
    "asimd asimddp": "asimddp",
    "asimd asimddp i8mm": "i8mm",
}


@pytest.mark.parametrize("features", FEATURES)
def test_the_best_feature_is_the_level(features: str) -> None:
    assert level_of(features.split()) == FEATURES[features]


def test_only_x86_above_avx2_has_a_lower_level() -> None:
    has_lower = {level for level in FEATURES.values() if lower_level(level)}
    assert has_lower == {"avx512", "avx_vnni", "avx512_vnni", "amx_int8"}
    assert LOWEST in SATURATING


@pytest.mark.parametrize("isa", ["AVX2", "avx2", "SSE41"])
def test_torch_is_at_the_level_that_onednn_is_told(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", isa)
    assert torch_level() in ("avx2", "asimddp", "i8mm", "other")


@pytest.mark.parametrize("isa", ["", "ALL", "AVX10_2_512_AMX_2", "AVX512_CORE_AMX"])
def test_torch_is_at_the_processors_level_otherwise(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", isa)
    assert torch_level() == this_level()
