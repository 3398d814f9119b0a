"""Which processors multiply 8-bit integers exactly."""

import pytest

from tests.processor import is_exact

PROCESSORS = {
    "flags\t\t: fpu avx2 fma\n": False,
    "flags\t\t: fpu avx2 avx512f avx512bw\n": False,
    "flags\t\t: fpu avx2 avx_vnni\n": True,
    "flags\t\t: fpu avx2 avx512f avx512_vnni amx_int8\n": True,
    "Features\t: fp asimd\n": False,
    "Features\t: fp asimd asimddp\n": True,
    "bugs\t\t: avx_vnni\n": False,
    "": False,
}


@pytest.mark.parametrize(("cpuinfo", "exact"), PROCESSORS.items())
def test_a_processor_is_known_by_its_features(cpuinfo: str, exact: bool) -> None:
    assert is_exact(f"processor\t: 0\n{cpuinfo}") is exact
