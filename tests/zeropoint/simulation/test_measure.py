"""Judging in simulation gives what the saved program gives."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.job_program import shared_second_process
from tests.networks import convolutional, counting
from tests.zeropoint.conftest import OpenExample, QuantizeExample
from zeropoint.data.dataset import open_dataset
from zeropoint.formats import WRITERS
from zeropoint.model.source import ProgramSource
from zeropoint.simulation import measure as judging
from zeropoint.simulation.measure import Evaluator
from zeropoint.validation.evaluation import evaluate


def test_noise_and_metrics_are_those_of_the_saved_program(tmp_path: Path, quantized: QuantizeExample) -> None:
    example = convolutional()
    labelled = {**example.dataset, "labels": torch.arange(40) % 10}
    result = quantized(example)
    save_file(labelled, tmp_path / "labelled.safetensors")
    assert isinstance(result.source, ProgramSource)
    samples = open_dataset(tmp_path / "labelled.safetensors", result.source.inputs, 16)
    (tmp_path / "out").mkdir()
    for name in ("safetensors", "pt2"):
        WRITERS[name].write(result, tmp_path / "out" / WRITERS[name].file)
    with shared_second_process(tmp_path) as reader:
        assert reader.open(tmp_path / "out")
        saved = evaluate(result, samples, reader, lambda *_: None)
    simulated = Evaluator(result.source, samples).measure(result.layers)
    assert simulated.noise.db == pytest.approx(saved.outputs.noise.db, abs=0.5)
    assert simulated.noise.signal == pytest.approx(saved.outputs.noise.signal)
    own, others = simulated.metrics.reports(), saved.metrics.reports()
    assert [metric.name for metric in own] == ["agreement", "top1", "top5"] == [metric.name for metric in others]
    assert [metric.float_value for metric in own] == [metric.float_value for metric in others]


def test_float_outputs_are_made_once_unless_they_are_large(
    tmp_path: Path, quantized: QuantizeExample, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = quantized(convolutional())
    assert isinstance(result.source, ProgramSource)
    samples = open_dataset(tmp_path / "dataset.safetensors", result.source.inputs, 16)
    passes = []
    result.source.module.register_forward_pre_hook(lambda *_: passes.append(1))
    judge = Evaluator(result.source, samples)
    first, second = judge.measure(result.layers), judge.measure(result.layers)
    assert (len(passes), first.noise) == (3 + 3 + 3, second.noise)
    monkeypatch.setattr(judging, "MAX_KEPT_BYTES", 0)
    passes.clear()
    again = Evaluator(result.source, samples)
    assert (again.measure(result.layers).noise, again.measure(result.layers).noise) == (first.noise, first.noise)
    assert len(passes) == 4 * 3


def test_no_layers_are_the_float_model(opened: OpenExample, tmp_path: Path) -> None:
    """Also where passes change buffers."""
    example = counting()
    source = opened(example)
    samples = open_dataset(example.save_dataset(tmp_path / "dataset.safetensors"), source.inputs, 2)
    assert Evaluator(source, samples).measure([]).noise.exact
