"""One file of a result, downloaded by itself and under any name, is loaded; what is missing is said."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils._pytree import tree_leaves

from tests.networks import Example, attention, audio, convolutional
from zeropoint import load, quantize
from zeropoint.errors import InvalidModel
from zeropoint.loading.quantized_model import QuantizedModel

pytestmark = pytest.mark.filterwarnings("ignore::zeropoint.errors.QuantizationWarning")  # attention stays in float


MEASURED = {"output_sqnr_db": None, "saturation": None, "limited_outputs": None}
MEASURED |= dict.fromkeys(("sensitivity_db", "excluding_gains_db", "excluding_adds_bytes", "excluding"), None)


def calls(example: Example) -> list[tuple[torch.Tensor, ...]]:
    rows = len(next(iter(example.dataset.values())))
    return [tuple(t[first : first + 2] for t in example.dataset.values()) for first in range(0, rows, 2)]


def alone(q: QuantizedModel, name: str, folder: Path, as_name: str) -> Path:
    folder.mkdir()
    return Path(shutil.copyfile(q.files[name], folder / as_name))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
@pytest.mark.parametrize("make", [convolutional, audio, attention])
def test_tensors_alone_need_only_the_module(tmp_path: Path, make: Callable[[], Example], name: str) -> None:
    example = make()
    q = quantize(example.module, calls(example))
    path = alone(q, name, tmp_path / "alone", "download")
    again = load(path, model=make().module)
    outputs = (tree_leaves(model(*calls(example)[0])) for model in (again, q))
    assert all(torch.equal(left, right) for left, right in zip(*outputs, strict=True))
    told, expected = again.report, q.report
    assert (told.recipe, told.versions) == (expected.recipe, expected.versions)
    assert {layer.name: layer.type for layer in told.skipped} == {layer.name: layer.type for layer in expected.skipped}
    by_name = {layer.name: layer.model_copy(update=MEASURED) for layer in told.layers}
    assert by_name == {layer.name: layer.model_copy(update=MEASURED) for layer in expected.layers}
    assert told.summary.compression_ratio == expected.summary.compression_ratio
    assert again.summary()
    with pytest.raises(InvalidModel, match="no program") as refused:
        load(path)
    assert refused.value.code == "float_module_required"
    again.save(tmp_path / "saved")
    assert [file.name for file in (tmp_path / "saved").iterdir()] == [name]


def test_a_program_alone_runs_and_says_that_it_has_no_report(tmp_path: Path) -> None:
    example = convolutional()
    q = quantize(example.export(tmp_path / "float.pt2"), calls(example))
    again = load(alone(q, "model.pt2", tmp_path / "alone", "quantized.pt2"))
    assert torch.equal(again(*calls(example)[0]), q(*calls(example)[0]))
    assert "without a report" in repr(again)
    for read in (lambda: again.report, again.summary):
        with pytest.raises(InvalidModel, match=r"report\.json"):
            read()


def test_a_folder_without_its_report_has_what_the_metadata_tells(tmp_path: Path) -> None:
    example = convolutional()
    quantize(example.export(tmp_path / "float.pt2"), calls(example)).save(tmp_path / "out")
    (tmp_path / "out" / "report.json").unlink()
    assert {layer.name for layer in load(tmp_path / "out").report.layers} == {"features.0", "features.3", "head"}


@pytest.mark.parametrize(
    ("content", "code"),
    [(None, "saved_model_missing"), (b"nothing", "saved_model_invalid"), (b"PK", "saved_model_invalid")],
)
def test_what_is_none_of_the_files_is_refused(tmp_path: Path, content: bytes | None, code: str) -> None:
    if content is not None:
        (tmp_path / "file").write_bytes(content)
    for model in (None, nn.Linear(1, 1)):
        with pytest.raises(InvalidModel) as refused:
            load(tmp_path / "file", model=model)
        assert refused.value.code == code


def test_float_weights_of_another_tool_are_told_apart(tmp_path: Path) -> None:
    save_file({"0.weight": torch.zeros(2, 2)}, tmp_path / "float.safetensors")
    with pytest.raises(InvalidModel, match="no metadata that Zeropoint wrote"):
        load(tmp_path / "float.safetensors", model=nn.Sequential(nn.Linear(2, 2, bias=False)))
