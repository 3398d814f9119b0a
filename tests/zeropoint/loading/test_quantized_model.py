"""A round trip through a folder changes no bit, and a folder that doesn't fit says why."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from tests.networks import Example, attention, audio, convolutional, counting, projections
from zeropoint import load, quantize
from zeropoint.errors import InvalidModel, QuantizationError

pytestmark = pytest.mark.filterwarnings("ignore::zeropoint.errors.QuantizationWarning")  # attention stays in float


MAKERS = [convolutional, audio, attention, counting, projections]


def same(left: object, right: object) -> bool:
    return all(torch.equal(a, b) for a, b in zip(tree_leaves(left), tree_leaves(right), strict=True))


def calls(example: Example) -> list[tuple[Tensor, ...]]:
    rows = len(next(iter(example.dataset.values())))
    return [tuple(t[first : first + 2] for t in example.dataset.values()) for first in range(0, rows, 2)]


def other_weights(make: Callable[[], Example]) -> nn.Module:
    """A module of the class, with weights that are not the ones that were quantized."""
    module = make().module
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(0.5)
    return module


@pytest.mark.sampled(4)
@pytest.mark.parametrize("file", ["model.pt", "model.safetensors"])
@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_a_module_comes_back_bit_for_bit(tmp_path: Path, make: Callable[[], Example], file: str) -> None:
    example = make()
    q = quantize(example.module, calls(example))
    q.save(tmp_path)
    if file == "model.safetensors":
        (tmp_path / "model.pt").unlink()
    again = load(tmp_path, model=other_weights(make))
    assert again.report == q.report
    assert same(again.module(*calls(example)[0]), q.module(*calls(example)[0]))


@pytest.mark.parametrize("make", [convolutional, attention], ids=lambda make: make.__name__)
def test_a_program_comes_back_bit_for_bit(tmp_path: Path, make: Callable[[], Example]) -> None:
    example = make()
    q = quantize(example.export(tmp_path / "float.pt2"), calls(example))
    q.save(tmp_path / "out")
    again = load(tmp_path / "out")
    assert same(again.module(*calls(example)[0]), q.module(*calls(example)[0]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_comes_back_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).to(dtype), torch.randn(8, 8, dtype=dtype)
    q = quantize(model, [x])
    q.save(tmp_path)
    assert torch.equal(load(tmp_path, model=model).module(x), q.module(x))


def test_what_is_tied_is_tied_again(tmp_path: Path) -> None:
    example = attention()
    quantize(example.module, calls(example)).save(tmp_path)
    module = load(tmp_path, model=example.module).module
    assert module.head.weight is module.embed.weight  # type: ignore[attr-defined]


def test_the_state_dict_is_what_the_file_holds(tmp_path: Path) -> None:
    example = convolutional()
    q = quantize(example.module, calls(example))
    q.save(tmp_path)
    state, stored = q.module.state_dict(), load_file(tmp_path / "model.safetensors")  # type: ignore[attr-defined]
    assert {name: tensor.dtype for name, tensor in state.items()} == {n: t.dtype for n, t in stored.items()}


def test_the_checkpoint_holds_tensors_and_plain_metadata_alone(tmp_path: Path) -> None:
    example = convolutional()
    quantize(example.module, calls(example)).save(tmp_path)
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    assert set(content) == {"metadata", "tensors"}
    assert json.loads(content["metadata"]["zeropoint"])["schema_version"] == 1


def test_a_saved_result_outlives_the_one_that_wrote_it(tmp_path: Path) -> None:
    example = projections()
    q = quantize(example.module, calls(example))
    folder = q.folder
    q.save(tmp_path)
    del q
    assert not folder.exists()
    load(tmp_path, model=example.module).save(tmp_path / "copy")
    files = {"model.safetensors", "model.pt", "model.pt2", "report.json"}
    assert {path.name for path in (tmp_path / "copy").iterdir()} == files


def saved(folder: Path) -> None:
    example = projections()
    quantize(example.module, calls(example)).save(folder)


def rewrite_schema(folder: Path) -> None:
    (folder / "model.pt").unlink()
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        metadata = file.metadata()
    metadata["zeropoint"] = metadata["zeropoint"].replace('"schema_version":1', '"schema_version":99')
    save_file(load_file(folder / "model.safetensors"), folder / "model.safetensors", metadata)


def strip_metadata(folder: Path) -> None:
    (folder / "model.pt").unlink()
    save_file(load_file(folder / "model.safetensors"), folder / "model.safetensors")


def lose_a_scale(folder: Path) -> None:
    content = torch.load(folder / "model.pt", weights_only=True)
    del content["tensors"]["key.weight_scale"]
    torch.save(content, folder / "model.pt")


def lose_everything(folder: Path) -> None:
    for name in ("model.pt", "model.safetensors"):
        (folder / name).unlink()


def truncate(folder: Path) -> None:
    (folder / "model.pt").write_bytes((folder / "model.pt").read_bytes()[:100])


@pytest.mark.parametrize(
    ("damage", "code", "word"),
    [
        (rewrite_schema, "unknown_schema_version", "99"),
        (strip_metadata, "saved_model_invalid", "no metadata"),
        (lose_a_scale, "saved_model_invalid", "key.weight_scale"),
        (lose_everything, "saved_model_missing", "model.safetensors"),
        (truncate, "saved_model_invalid", "model.pt"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_folder_that_is_not_whole_says_what_is_wrong(
    tmp_path: Path, damage: Callable[[Path], None], code: str, word: str
) -> None:
    saved(tmp_path)
    damage(tmp_path)
    with pytest.raises(QuantizationError, match=word) as refused:
        load(tmp_path, model=projections().module)
    assert refused.value.code == code


class Renamed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(4, 4)
        self.value = nn.Linear(4, 4)


class Wider(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(4, 5)
        self.key = nn.Linear(4, 4)


class Larger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.norm = nn.Linear(4, 4), nn.Linear(4, 4), nn.LayerNorm(4)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (Renamed(), "'key'"),
        (Wider(), "'query.weight'"),
        (Larger(), "'norm.weight'"),
        (projections().module.half(), "float16"),
    ],
    ids=["renamed", "wider", "larger", "half"],
)
def test_a_module_that_does_not_fit_is_refused_by_name(tmp_path: Path, model: nn.Module, name: str) -> None:
    saved(tmp_path)
    with pytest.raises(InvalidModel, match=name) as refused:
        load(tmp_path, model=model)
    assert refused.value.code == "module_does_not_fit"


def test_a_whole_module_without_a_program_needs_its_class_from_the_caller(tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / "model.pt2").unlink()
    with pytest.raises(InvalidModel) as refused:
        load(tmp_path)
    assert refused.value.code == "float_module_required"


def test_saving_over_another_model_leaves_nothing_of_it(tmp_path: Path) -> None:
    example = projections()
    quantize(example.export(tmp_path / "float.pt2"), calls(example)).save(tmp_path / "out")
    quantize(example.module, calls(example), export=False).save(tmp_path / "out")
    assert not (tmp_path / "out" / "model.pt2").exists()
