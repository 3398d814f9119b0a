"""Latency in onnxruntime, and the refusal where there is none."""

from pathlib import Path

import pytest

from tests.networks import convolutional
from tests.zeropoint.conftest import OpenExample
from zeropoint.data.dataset import open_dataset
from zeropoint.entrypoints.clock import Clock
from zeropoint.entrypoints.sweep import Sweep
from zeropoint.errors import Unsupported
from zeropoint.formats.onnx import writer as onnx
from zeropoint.model.source import ProgramSource
from zeropoint.schema.recipe import Recipe
from zeropoint.schema.sweep import SweepEntry

ENTRIES = [SweepEntry(name="a", recipe=Recipe()), SweepEntry(name="b", recipe=Recipe(activations=None))]


@pytest.fixture
def source(opened: OpenExample) -> ProgramSource:
    return opened(convolutional())


@pytest.fixture
def sweep(tmp_path: Path, source: ProgramSource) -> Sweep:
    samples = open_dataset(convolutional().save_dataset(tmp_path / "d.safetensors"), source.inputs, None)
    (tmp_path / "scratch").mkdir()
    return Sweep(source, samples, None, Clock(lambda _: None), tmp_path / "scratch")


def test_rows_have_latency_where_it_was_asked_for(sweep: Sweep) -> None:
    pytest.importorskip("onnxruntime")
    report = sweep.compare(ENTRIES, latency=True)
    assert all(row.latency_ms and row.float_latency_ms for row in report.rows)
    assert list(sweep.scratch.iterdir()) == []
    assert sweep.compare(ENTRIES).rows[0].latency_ms is None


def test_latency_without_onnxruntime_is_refused_before_any_work(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx, "find_spec", lambda _: None)
    with pytest.raises(Unsupported, match="Leave latency out") as refused:
        sweep.compare(ENTRIES, latency=True)
    assert refused.value.code == "onnx_unavailable"
