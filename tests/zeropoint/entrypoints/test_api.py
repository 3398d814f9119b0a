"""The Python face: what it takes, what it gives, and that the caller's model stays what it was."""

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tests.networks import Example, attention, convolutional, counting, projections
from zeropoint import load, quantize
from zeropoint.errors import (
    InvalidModel,
    InvalidProfile,
    InvalidRecipe,
    InvalidSamples,
    QuantizationWarning,
    Unsupported,
    ValidationFailed,
)
from zeropoint.schema.recipe import MseObserver, Recipe, WeightSettings
from zeropoint.schema.report import Report


def calls(example: Example, size: int = 2) -> list[tuple[Tensor, ...]]:
    rows = len(next(iter(example.dataset.values())))
    return [tuple(t[first : first + size] for t in example.dataset.values()) for first in range(0, rows, size)]


class Branches(nn.Module):
    """A layer used under two names, one that no call reaches, and one that its owner calls by its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.again = self.first
        self.idle = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.again(torch.relu(self.first(x)))
        return output


def test_a_module_is_quantized_measured_and_callable() -> None:
    example = convolutional()
    q = quantize(example.module, calls(example))
    assert q.report.verdict == "passed"
    assert {layer.name for layer in q.report.layers} == {"features.0", "features.3", "head", "unused"}
    assert q.report.summary.sqnr_db is not None
    assert q.report.summary.sqnr_db > 30
    assert q.module(*example.inputs).shape == (4, 10)


def test_a_program_gives_what_the_module_gives(tmp_path: Path) -> None:
    example = convolutional()
    path = example.export(tmp_path / "model.pt2")
    loaded = quantize(path, calls(example))
    program = quantize(torch.export.load(path), calls(example))
    module = quantize(example.module, calls(example))
    x = example.inputs[0]
    assert torch.equal(loaded.module(x), program.module(x))
    assert torch.equal(module.module(x), program.module(x))
    assert loaded.report.summary.sqnr_db == module.report.summary.sqnr_db


def test_the_callers_module_stays_what_it_was() -> None:
    example = counting()
    example.module.train()
    before = copy.deepcopy(example.module.state_dict())
    quantize(example.module, calls(example))
    assert example.module.training
    assert not example.module.linear._forward_pre_hooks  # type: ignore[union-attr]
    assert isinstance(example.module.linear, nn.Linear)
    for name, tensor in example.module.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_training_on_leaves_the_quantized_module_alone() -> None:
    example = convolutional()
    q = quantize(example.module, calls(example))
    expected = q.module(*example.inputs)
    with torch.no_grad():
        for parameter in example.module.parameters():
            parameter.add_(1.0)
    assert torch.equal(q.module(*example.inputs), expected)


def test_a_leaf_computes_what_evaluation_compares() -> None:
    torch.manual_seed(0)
    x = torch.randn(40, 4)
    model = nn.Sequential(nn.Linear(4, 4))
    q = quantize(model, [x])
    noise = q.report.layers[0].output_sqnr_db
    assert noise is not None
    assert q.report.summary.sqnr_db == pytest.approx(noise, abs=1e-9)


def test_a_layer_under_two_names_is_one_and_one_that_never_ran_stays_in_float() -> None:
    torch.manual_seed(0)
    q = quantize(Branches(), [torch.randn(8, 4)])
    assert [layer.name for layer in q.report.layers] == ["first"]
    assert {skip.name: skip.reason for skip in q.report.skipped} == {"idle": "never_ran"}
    assert q.module.first is q.module.again  # type: ignore[attr-defined]


def test_when_nothing_ran_nothing_can_be_quantized() -> None:
    with pytest.raises(InvalidRecipe, match="never_ran"):
        quantize(Branches(), [torch.randn(8, 4)], include=["idle"])


def test_tied_weights_stay_tied_and_in_float() -> None:
    example = attention()
    q = quantize(example.module, calls(example), on_failure="ignore")  # its attention stays in float
    reasons = {skip.name: skip.reason for skip in q.report.skipped}
    assert reasons["head"] == "shared_weight_conflict"
    assert q.module.head.weight is q.module.embed.weight  # type: ignore[attr-defined]


class Tied(nn.Module):
    """A vocabulary that goes in and comes out by one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.head = nn.Linear(8, 20, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        output: Tensor = self.head(self.embed(ids))
        return output


def test_layers_that_share_a_weight_are_quantized_alike_and_stored_once(tmp_path: Path) -> None:
    torch.manual_seed(0)
    ids = torch.randint(0, 20, (8, 5))
    q = quantize(Tied(), [ids], layer_types=["Linear", "Embedding"], skip_layers=[])
    assert [layer.name for layer in q.report.layers] == ["embed", "head"]
    assert q.report.verdict == "passed"
    q.save(tmp_path)
    assert [n for n, t in load_file(tmp_path / "model.safetensors").items() if t.dtype == torch.int8] == [
        "embed.weight"
    ]
    assert torch.equal(load(tmp_path, model=Tied()).module(ids), q.module(ids))


@pytest.mark.parametrize(
    "recipe",
    [
        {"weights": {"dtype": "int4", "group_size": 4}},
        {"weights": {"dtype": "float8_e4m3"}},
        {"weights": {"dtype": "bfloat16"}},
        {"weights": {"dtype": "quint8", "scheme": "asymmetric"}},
    ],
    ids=["int4", "float8", "bfloat16", "quint8"],
)
def test_every_dtype_runs_in_a_leaf_and_comes_back(tmp_path: Path, recipe: dict[str, object]) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)), torch.randn(8, 8)
    q = quantize(model, [x], recipe=recipe, on_failure="ignore")
    assert {check.name for check in q.report.checks if not check.passed} <= {"size"}
    q.save(tmp_path)
    assert torch.equal(load(tmp_path, model=model).module(x), q.module(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_goes_in_and_comes_out(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).to(dtype)
    q = quantize(model, [torch.randn(8, 8, dtype=dtype)])
    assert q.report.verdict == "passed"
    assert q.module(torch.randn(2, 8, dtype=dtype)).dtype == dtype


def test_a_transformer_layer_does_not_slip_past_its_quantized_leaves() -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    with pytest.warns(QuantizationWarning, match="left_in_float"):
        q = quantize(model, [torch.randn(2, 5, 16) for _ in range(4)])
    assert [layer.name for layer in q.report.layers] == ["linear1", "linear2"]
    assert q.report.verdict == "warned"  # half of the weights are those of the attention
    assert [warning.code for warning in q.report.warnings] == ["left_in_float"]


def test_keywords_replace_fields_of_the_recipe() -> None:
    example = convolutional()
    base = Recipe(weights=WeightSettings(granularity="per_tensor", observer=MseObserver()))
    q = quantize(
        example.module,
        calls(example),
        recipe=base,
        layer_types=[nn.Linear, "Conv2d"],
        skip_layers=[nn.LayerNorm],
        include=["features.*", "head"],
        exclude=["features.3"],
        on_failure="warn",
    )
    assert {layer.name for layer in q.report.layers} == {"features.0", "head"}
    assert q.report.layers[0].weight.granularity == "per_tensor"
    assert q.report.recipe.skip_layers == ("LayerNorm",)
    assert (q.report.recipe.validation.on_failure, q.report.recipe.weights.observer) == ("warn", MseObserver())


@pytest.mark.parametrize("recipe", ["int8-weight-only", {"activations": None}, Recipe(activations=None)])
def test_a_recipe_is_a_name_a_dict_or_a_recipe(recipe: str | dict[str, object] | Recipe) -> None:
    example = projections()
    q = quantize(example.module, recipe=recipe)
    assert (q.report.verdict, q.report.evaluation.source) == ("not_evaluated", "none")


@pytest.mark.parametrize(
    ("recipe", "code"), [("int7", "preset_not_found"), ({"observer": 1}, "recipe_invalid")], ids=["preset", "field"]
)
def test_a_recipe_that_is_none_is_refused(recipe: str | dict[str, object], code: str) -> None:
    with pytest.raises(InvalidRecipe) as refused:
        quantize(projections().module, recipe=recipe)
    assert refused.value.code == code


def test_a_failed_check_raises_and_keeps_its_report() -> None:
    example = projections()
    bounds = {"validation": {"min_sqnr_db": 200}}
    with pytest.raises(ValidationFailed, match="at least 200 dB") as failed:
        quantize(example.module, calls(example), recipe=bounds)
    assert isinstance(failed.value.report, Report)
    assert failed.value.code == "validation_failed"


def test_dicts_are_keywords_and_loaders_are_iterated() -> None:
    example = attention()
    named = [dict(zip(("ids", "mask"), call, strict=True)) for call in calls(example)]
    loader = DataLoader(TensorDataset(*example.dataset.values()), batch_size=2)
    by_name, by_loader = (quantize(example.module, data, on_failure="ignore") for data in (named, loader))
    assert by_name.report.layers == by_loader.report.layers


def test_a_quarter_of_the_samples_is_kept_out_and_said_so() -> None:
    q = quantize(convolutional().module, calls(convolutional(samples=40)))
    assert (q.report.calibration.samples, q.report.calibration.batches) == (30, 15)
    assert (q.report.evaluation.source, q.report.evaluation.samples) == ("held_out", 10)


def test_too_few_samples_evaluate_on_what_calibrated() -> None:
    q = quantize(projections().module, [torch.randn(7, 4)])
    assert (q.report.evaluation.source, q.report.evaluation.samples) == ("calibration_samples", 7)


def test_evaluation_data_leaves_every_call_to_calibration() -> None:
    q = quantize(projections().module, [torch.randn(4, 4)] * 8, evaluation_data=[torch.randn(6, 4)])
    assert q.report.calibration.samples == 32
    assert (q.report.evaluation.source, q.report.evaluation.samples) == ("evaluation_dataset", 6)


def test_a_generator_without_an_end_is_read_once_and_not_too_far() -> None:
    read = 0

    def endless() -> Iterator[Tensor]:
        nonlocal read
        while True:
            read += 1
            yield torch.randn(4, 4)

    q = quantize(projections().module, endless())
    assert q.report.calibration.samples == 128
    assert read == (128 + 256) / 4


def test_without_samples_static_ranges_are_refused() -> None:
    with pytest.raises(InvalidSamples) as refused:
        quantize(projections().module)
    assert refused.value.code == "dataset_required"


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(Unsupported) as refused:
        quantize(lambda x: x)  # type: ignore[arg-type]
    assert refused.value.code == "model_format_unsupported"


def test_a_weight_that_is_not_finite_is_refused_by_name() -> None:
    example = projections()
    with torch.no_grad():
        example.module.get_parameter("key.weight")[1, 2] = float("nan")
    with pytest.raises(InvalidModel, match=r"'key.weight'.*\[1, 2\]"):
        quantize(example.module, calls(example))


def test_saturation_is_the_share_of_inputs_beyond_the_range() -> None:
    model = nn.Sequential(nn.Linear(1, 1))
    calibration, evaluation = torch.linspace(0, 1, 64)[:, None], torch.tensor([[0.5], [2.0], [3.0], [-1.0]])
    q = quantize(model, [calibration], evaluation_data=[evaluation], on_failure="ignore")
    assert q.report.layers[0].saturation == 0.75
    assert q.report.summary.cosine is not None
    assert q.report.summary.cosine < 0.999


def test_a_profile_is_made_once_and_spares_the_forward_pass(tmp_path: Path) -> None:
    example, path = convolutional(), tmp_path / "profile.safetensors"
    first = quantize(example.module, calls(example), profile=path)
    again = quantize(example.module, iter(calls(example)), profile=path)
    assert (first.report.calibration.passes, first.report.calibration.reused) == (1, False)
    assert (again.report.calibration.passes, again.report.calibration.reused) == (0, True)
    tensors = [load_file(q.folder / "model.safetensors") for q in (first, again)]
    assert all(torch.equal(tensor, tensors[1][name]) for name, tensor in tensors[0].items())
    mse = {"activations": {"observer": {"kind": "mse"}}}
    other = quantize(example.module, calls(example), profile=path, recipe=mse)
    assert other.report.calibration.passes == 0


def test_a_profile_of_other_samples_or_another_model_is_refused(tmp_path: Path) -> None:
    example, path = convolutional(), tmp_path / "profile.safetensors"
    quantize(example.module, calls(example), profile=path)
    with pytest.raises(InvalidProfile) as refused:
        quantize(example.module, [(call[0] + 1,) for call in calls(example)], profile=path)
    assert refused.value.code == "profile_does_not_match"
    with torch.no_grad():
        next(example.module.parameters()).add_(1)
    with pytest.raises(InvalidProfile):
        quantize(example.module, calls(example), profile=path)
