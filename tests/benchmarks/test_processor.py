"""Every benchmark says what the processor has for integers."""

from pathlib import Path

import pytest

from zeropoint.simulation.processor import features

SCRIPTS = [path for path in sorted(Path("benchmarks").glob("*.py")) if "__main__" in path.read_text()]


@pytest.mark.parametrize("script", SCRIPTS, ids=str)
def test_a_benchmark_prints_it(script: Path) -> None:
    assert "features()" in script.read_text()


def test_it_is_one_line() -> None:
    assert len(features().splitlines()) == 1
