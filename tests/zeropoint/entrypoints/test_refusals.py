"""What Python users give by mistake is refused in words, before the work; what they mean is taken."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from zeropoint import load, quantize
from zeropoint.errors import QuantizationError

X = torch.randn(32, 16, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4)).eval()


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def exported(folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    program = torch.export.export(network().to(dtype), (X.to(dtype),))
    torch.export.save(program, folder / "float.pt2")
    return folder / "float.pt2"


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a number for a name": (lambda _: quantize(network(), X, include=[1]), "recipe_invalid"),  # type: ignore[list-item]
    "a number for names": (lambda _: quantize(network(), X, exclude=1), "recipe_invalid"),  # type: ignore[arg-type]
    "a profile in no folder": (lambda path: quantize(network(), X, profile=path / "no" / "profile"), "profile_invalid"),
    "sparse samples": (lambda _: quantize(network(), X.to_sparse()), "calibration_item_invalid"),
    "samples without values": (lambda _: quantize(network(), X.to("meta")), "calibration_item_invalid"),
    "a sparse call": (lambda _: quantize(network(), [X.to_sparse()]), "calibration_item_invalid"),
    "no file": (lambda path: quantize(path / "model.pt2", X), "program_invalid"),
    "a folder": (lambda path: quantize(path, X), "program_invalid"),
    "onnx of a module": (lambda _: quantize(network(), X, recipe={"formats": ["onnx"]}), "recipe_does_not_fit"),
    "a report for a model": (lambda path: load(written(path / "report.json", "{}")), "saved_model_missing"),
    "nothing for a model": (lambda _: load(None), "saved_model_missing"),  # type: ignore[arg-type]
    "a float program": (lambda path: load(exported(path)), "saved_model_missing"),
    "a float program of float16": (lambda path: load(exported(path, torch.float16)), "saved_model_missing"),
    "a file for a folder": (lambda path: quantize(network(), X).save(written(path / "out", "")), "not_a_folder"),
    "a folder in a file": (lambda path: quantize(network(), X).save(written(path / "o", "") / "p"), "not_a_folder"),
    "adapters of a module": (lambda _: quantize(network(), X, recipe={"merge_lora": True}), "recipe_does_not_fit"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_mistake_is_refused_in_words(name: str, tmp_path: Path) -> None:
    call, code = REFUSED[name]
    with pytest.raises(QuantizationError) as refusal:
        call(tmp_path)
    assert refusal.value.code == code
    assert str(tmp_path) not in str(refusal.value)


@pytest.mark.parametrize("name", ["folder", "model.safetensors", "model.pt", "model.tar", "model.pt2"])
def test_a_file_of_another_form_is_refused_with_the_way_for_it(tmp_path: Path, name: str) -> None:
    written(tmp_path / name, "x") if "." in name else (tmp_path / name).mkdir()
    with pytest.raises(QuantizationError) as refusal:
        quantize(tmp_path / name, X)
    assert ("from_pretrained" in refusal.value.remedy) is (name != "model.pt2")
    assert "torch.export" in refusal.value.remedy or ".pt2" in refusal.value.remedy


MISTAKES: dict[str, tuple[Callable[[], object], str]] = {
    "a preset in a recipe": (
        lambda: quantize(network(), X, recipe={"preset": "int8"}),
        "give the preset's name in place of the mapping",
    ),
    "a state dict": (lambda: quantize(network().state_dict(), X), "state dict is loaded into its module"),  # type: ignore[arg-type]
    "onnx": (lambda: quantize(network(), X, recipe={"formats": ["pt2", "onnx"]}), "/formats: onnx is written for"),
    "huggingface": (lambda: quantize(network(), X, recipe={"formats": ["huggingface"]}), "huggingface is written for"),
    "adapters": (lambda: quantize(network(), X, recipe={"merge_lora": True}), "/merge_lora: adapters are merged for"),
    "no labels": (
        lambda: quantize(network(), X, recipe={"target": {"max_drop": {"metric": "top1", "value": 0.1}}}),
        "Give evaluation data that hold labels",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_refusal_says_what_is_meant(name: str) -> None:
    call, words = MISTAKES[name]
    with pytest.raises(QuantizationError) as refusal:
        call()
    assert words in str(refusal.value)
    assert refusal.value.__cause__ is None  # no text of a library in the traceback
    assert refusal.value.__suppress_context__ or refusal.value.__context__ is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int64])
def test_samples_of_another_dtype_are_told_the_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    with pytest.raises(QuantizationError, match=str(dtype).removeprefix("torch.")) as refusal:
        quantize(exported(tmp_path), [X.to(dtype)])
    assert "torch.float32" in refusal.value.remedy
    assert "batch" not in refusal.value.remedy


@pytest.mark.parametrize("preset", ["int8-static", "int8-weight-only", "int4-weight-only", "float16", "float8-static"])
def test_a_quantized_program_alone_is_taken(tmp_path: Path, preset: str) -> None:
    quantize(exported(tmp_path), [X], recipe=preset, on_failure="ignore").save(tmp_path / "out")
    program = (tmp_path / "out" / "model.pt2").rename(tmp_path / "alone.pt2")
    assert load(program)(X).shape == (32, 4)


@pytest.mark.parametrize(("count", "warned"), [(1, True), (2, False)])
def test_one_sample_is_no_range(count: int, warned: bool) -> None:
    report = quantize(network(), X[:count], on_failure="ignore").report
    assert ("single_sample" in [warning.code for warning in report.warnings]) is warned
    weights = quantize(network(), X[:count], recipe="int8-weight-only", on_failure="ignore").report
    assert "single_sample" not in [warning.code for warning in weights.warnings]


def test_one_name_or_type_needs_no_list() -> None:
    for names in ({"layer_types": "Linear"}, {"layer_types": nn.Linear}, {"include": "0"}, {"exclude": "2"}):
        result = quantize(network(), X, export=False, on_failure="ignore", **names)
        assert "0" in [layer.name for layer in result.report.layers]


class Masked(nn.Module):
    """Scores, some of which are hidden, and the logarithm of numbers that may be negative."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.scores = nn.Linear(16, 8)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scores = self.scores(x)
        return scores.masked_fill(x[:, :8] > 0, -torch.inf), x.log()


def test_scores_that_a_mask_hides_are_no_noise() -> None:
    report = quantize(Masked(), X, export=False).report
    assert report.verdict == "passed"
    assert report.summary.sqnr_db is not None
    assert report.summary.sqnr_db > 20


class Overflowing(nn.Module):
    """Finite in float, and infinite once the weight is rounded up."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(1, 1, bias=False)
        self.one.weight.data.fill_(1.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.one(x)
        return torch.where(y == x, y, torch.inf)


def test_infinity_where_the_float_model_has_none_is_not_left_out() -> None:
    values = torch.rand(64, 1, generator=torch.Generator().manual_seed(0))
    report = quantize(Overflowing(), values, export=False, on_failure="ignore").report
    assert not next(check for check in report.checks if check.name == "sqnr").passed
