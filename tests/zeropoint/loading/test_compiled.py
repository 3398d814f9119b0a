"""The process that compiles says why it gave nothing, and nobody waits for it for ever."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.job_program import shared_second_process
from tests.networks import projections
from tests.zeropoint.conftest import QuantizeExample
from zeropoint.formats import VALIDATED, write_formats
from zeropoint.loading.compiled import NO_COMPILER, NOT_COMPILED, TOO_LONG


def reason_of(folder: Path, seconds: float) -> str:
    """Why a folder's program was not compiled."""
    with shared_second_process(folder) as reader, reader.compiled(folder, None, seconds) as client:
        assert client.run([torch.randn(3, 4)]) is None
        return client.reason


def missing(_: Path) -> str:
    return "no-such-compiler"


def broken(folder: Path) -> str:
    return script(folder, 'test "$1" = --version && echo g++ 12.2.0 && exit 0; exit 1')


def hanging(folder: Path) -> str:
    return script(folder, 'test "$1" = --version && echo g++ 12.2.0 && exit 0; exec sleep 60')


def script(folder: Path, text: str) -> str:
    path = folder / "compiler"
    path.write_text(f"#!{shutil.which('sh')}\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("compiler", "reason"), [(missing, NO_COMPILER), (broken, NOT_COMPILED), (hanging, TOO_LONG)])
def test_a_compiler_that_gives_nothing_is_a_reason(
    quantized: QuantizeExample,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    compiler: Callable[[Path], str],
    reason: str,
) -> None:
    list(write_formats(quantized(projections()), tmp_path, VALIDATED["pt2"]))
    monkeypatch.setenv("CXX", compiler(tmp_path))
    began = time.monotonic()
    assert reason_of(tmp_path, 20.0 if compiler is hanging else 120.0) == reason
    assert time.monotonic() - began < 150
