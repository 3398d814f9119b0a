"""A result as text is short, and its table has every layer."""

import pytest
import torch
from torch import Tensor, nn

from tests.networks import attention, convolutional
from zeropoint import quantize

pytestmark = pytest.mark.filterwarnings("ignore::zeropoint.errors.QuantizationWarning")  # attention stays in float


def test_a_result_is_a_few_lines_and_its_summary_a_line_a_layer() -> None:
    for make in (convolutional, attention):
        example = make()
        q = quantize(example.module, [tuple(t[:8] for t in example.dataset.values())])
        text = repr(q)
        assert len(text.splitlines()) <= 7
        assert max(map(len, text.splitlines())) <= 120
        assert q.report.verdict in text
        lines = q.summary().splitlines()
        for layer in q.report.layers:
            assert [line for line in lines if line.split()[:2] == [layer.name, layer.type]]
        for skip in q.report.skipped:
            assert [line for line in lines if line.split() == [skip.name, skip.type, skip.reason]]
        assert not any(line.endswith(" ") for line in lines)


def test_the_verdict_is_followed_by_its_reasons() -> None:
    data = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
    many = quantize(model, data, progress=False)
    assert "verdict  passed\n" in repr(many)
    assert "samples  " not in repr(many)
    one = repr(quantize(model, data[:1], progress=False))
    assert "verdict  warned: single_sample\n" in one
    assert " on 1 sample (" in one
    assert "samples  few_samples" in one
    bound = {"validation": {"min_sqnr_db": 300, "on_failure": "warn"}}
    assert "verdict  warned: the check sqnr\n" in repr(quantize(model, data, recipe=bound, progress=False))


def test_a_result_is_called_as_the_model_is() -> None:
    example = attention()
    q = quantize(example.module, [tuple(example.dataset.values())])
    ids, mask = example.inputs
    by_position: Tensor = q(ids, mask)
    assert torch.equal(by_position, q(ids, mask=mask))
    assert torch.equal(by_position, q.module(ids, mask))
