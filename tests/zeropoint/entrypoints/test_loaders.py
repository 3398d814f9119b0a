"""Data as users hold it goes into `quantize` and gives one result; labels beside the inputs serve metrics."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from zeropoint import quantize
from zeropoint.errors import InvalidSamples

ROWS, CLASSES = 64, 5
CODES = ("dataset_invalid", "dataset_empty", "calibration_item_invalid", "dataset_does_not_fit")


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, CLASSES)).eval()


def rows() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(ROWS, 8)


def labels() -> Tensor:
    return model()(rows()).argmax(-1)  # type: ignore[no-any-return]


def exported() -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1, max=64)
    return torch.export.export(model(), (torch.randn(4, 8),), dynamic_shapes=({0: batch},))


def parts(tensor: Tensor) -> list[Tensor]:
    return list(torch.split(tensor, 32))


def refilled() -> Iterator[Tensor]:
    """One piece of memory for all batches, as a fast reader has it."""
    memory = torch.empty(32, 8)
    for part in parts(rows()):
        yield memory.copy_(part)


FORMS: dict[str, Callable[[], object]] = {
    "list": lambda: parts(rows()),
    "tensor": rows,
    "array": lambda: rows().numpy(),
    "generator": lambda: iter(parts(rows())),
    "refilled": refilled,
    "loader": lambda: DataLoader(TensorDataset(rows()), batch_size=32),
    "labelled": lambda: DataLoader(TensorDataset(rows(), labels()), batch_size=32),
    "dataset": lambda: TensorDataset(rows(), labels()),
    "dict": lambda: {"input": rows(), "labels": labels()},
    "dicts": lambda: [{"input": x, "labels": y} for x, y in zip(parts(rows()), parts(labels()), strict=True)],
}


@pytest.mark.sampled(5)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_same_samples_gives_one_result(form: str) -> None:
    expected = quantize(model(), parts(rows())).report
    found = quantize(model(), FORMS[form]()).report
    assert found.layers == expected.layers
    assert found.summary == expected.summary


@pytest.mark.parametrize("form", ["labelled", "dataset", "dicts", "dict"])
def test_labels_serve_metrics_on_held_out_and_on_evaluation_data(form: str) -> None:
    held_out = {metric.name: metric for metric in quantize(model(), FORMS[form]()).report.metrics}
    assert {"top1", "top5", "agreement"} == held_out.keys()
    assert held_out["top1"].float_value == 1.0
    given = quantize(model(), rows(), evaluation_data=FORMS[form]()).report
    assert next(metric for metric in given.metrics if metric.name == "top1").float_value == 1.0
    assert given.evaluation.samples == ROWS


def test_a_target_of_labels_is_judged_with_the_loaders_labels() -> None:
    target = {"target": {"max_drop": {"metric": "top1", "value": 0.5}}}
    q = quantize(model(), rows(), evaluation_data=FORMS["labelled"](), recipe=target)
    assert q.report.target is not None
    assert q.report.target.met


@pytest.mark.parametrize("wrong", [torch.full((ROWS,), CLASSES), torch.full((ROWS,), -100), torch.zeros(ROWS, 2, 2)])
def test_what_fits_no_class_is_no_label(wrong: Tensor) -> None:
    q = quantize(model(), DataLoader(TensorDataset(rows(), wrong), batch_size=32))
    assert [metric.name for metric in q.report.metrics] == ["agreement"]


def test_a_program_takes_them_too_and_cuts_rows_to_its_batch(tmp_path: Path) -> None:
    plain = quantize(exported(), parts(rows()))
    for form in ("tensor", "labelled", "dict"):
        found = quantize(exported(), FORMS[form]())
        assert found.report.summary == plain.report.summary
    static = torch.export.export(model(), (torch.randn(6, 8),))
    assert quantize(static, rows()).report.calibration.batch_size == 6


@pytest.mark.parametrize(
    "data",
    [
        3,
        "rows.safetensors",
        lambda: rows(),
        torch.tensor(1.0),
        {"a": 1},
        [3],
        ["x"],
        [{}],
        [()],
        [None],
        rows()[:0],
        [],
    ],
)
@pytest.mark.parametrize("place", ["calibration_data", "evaluation_data"])
def test_what_is_no_data_is_refused_with_a_code(data: object, place: str) -> None:
    given = {"calibration_data": rows()} | {place: data}
    with pytest.raises(InvalidSamples) as refused:
        quantize(model(), **given)  # type: ignore[arg-type]
    assert refused.value.code in (
        "dataset_invalid",
        "dataset_empty",
        "calibration_item_invalid",
        "dataset_does_not_fit",
    )


def test_model_inputs_says_what_the_signature_does_not() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model()

        def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
            return self.inner(x if mask is None else x * mask)  # type: ignore[no-any-return]

    loader = FORMS["labelled"]
    with pytest.raises(InvalidSamples, match="model takes x, mask"):
        quantize(Masked(), loader())
    for choice in (0, [0], lambda batch: batch[0]):
        q = quantize(Masked(), loader(), model_inputs=choice)
        assert q.report.verdict == "passed"
