"""What error compensation leaves, through the files: written, read back, run, measured, restored, and checked."""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from tests.job_program import shared_second_process
from tests.networks import convolutional, prenorm, projections
from tests.networks_with_corrections import by_hand, corrected
from tests.patterns import unusual
from tests.zeropoint.conftest import OpenExample, QuantizeExample
from zeropoint.data.calls import IterableBatches, read_inputs
from zeropoint.data.dataset import open_dataset
from zeropoint.engine.plan import QuantizationPlan
from zeropoint.engine.quantize import quantize_source
from zeropoint.entrypoints.validate import validate
from zeropoint.files.checkpoints import Checkpoints
from zeropoint.formats import write_formats
from zeropoint.formats.safetensors import write_safetensors
from zeropoint.layers.checkpoints import finished_layers
from zeropoint.layers.corrections import beside_weight
from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.layers.result import Quantized
from zeropoint.layers.selection import select
from zeropoint.layers.stored_tensors import stored_bytes, stored_corrections, stored_tensors
from zeropoint.loading.quantized_module import quantized_module
from zeropoint.loading.restore import restore
from zeropoint.loading.stored import read_safetensors, read_torch_checkpoint
from zeropoint.metrics.sqnr import Noise
from zeropoint.schema.metadata import LAYER_KEY
from zeropoint.schema.recipe import Recipe
from zeropoint.schema.report import EvaluationReport
from zeropoint.sources.module import module_source
from zeropoint.validation.evaluation import Evaluation, evaluate
from zeropoint.validation.report import Effort, Validated, build_report

CARRIED = {"query": "norm", "key": "norm", "value": "norm", "up": "last_norm"}


def carried(result: Quantized) -> Quantized:
    """The factors of layers behind a normalization go into it."""
    return replace(result, layers=[replace(n, scaled_by=CARRIED.get(n.layer.name)) for n in result.layers])


def test_the_header_says_where_everything_lies(quantized: QuantizeExample, tmp_path: Path) -> None:
    result = carried(corrected(quantized(prenorm())))
    write_safetensors(result, tmp_path / "model.safetensors")
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        about = {name: json.loads(file.metadata()[LAYER_KEY + name]) for name in ("query", "down")}
    parts = ("pre_quant_scale", "outlier_channels", "outlier_weight", "bias")
    assert {part: about["down"][part] for part in parts} == {part: f"down.{part}" for part in parts}
    assert (about["query"]["scaled_by"], "scaled_by" in about["down"]) == ("norm", False)
    stored = load_file(tmp_path / "model.safetensors")
    assert {part: (stored[f"down.{part}"].dtype, list(stored[f"down.{part}"].shape)) for part in parts} == {
        "pre_quant_scale": (torch.float32, [16]),
        "outlier_channels": (torch.int64, [2]),
        "outlier_weight": (torch.float32, [8, 2]),
        "bias": (torch.float32, [8]),
    }
    torch.testing.assert_close(
        stored["norm.weight"], result.source.tensors["norm.weight"] * stored["query.pre_quant_scale"]
    )
    assert sum(tensor.nbytes for tensor in stored.values()) == result.bytes


def test_a_layer_without_a_bias_gets_one_of_its_own_name(quantized: QuantizeExample, tmp_path: Path) -> None:
    example = projections()
    example.module.query = torch.nn.Linear(4, 4, bias=False)
    result = corrected(quantized(example), "bias")
    write_safetensors(result, tmp_path / "model.safetensors")
    query = next(layer for layer in result.layers if layer.layer.name == "query")
    assert query.bias is not None
    assert torch.equal(load_file(tmp_path / "model.safetensors")["query.bias"], query.bias)
    assert stored_bytes(query) == sum(tensor.nbytes for tensor in stored_tensors(query).values())


def test_nothing_of_it_is_told_of_a_layer_without(quantized: QuantizeExample, tmp_path: Path) -> None:
    result = quantized(projections())
    write_safetensors(result, tmp_path / "model.safetensors")
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        about = json.loads(file.metadata()[LAYER_KEY + "query"])
    assert about.keys() == {"type", "operator", "weight", "activation", "statistics"}
    assert "rounding" not in about["weight"]


@pytest.mark.parametrize("by_norms", [False, True], ids=["multiplied", "carried"])
def test_a_module_computes_the_formula_from_its_files(tmp_path: Path, by_norms: bool) -> None:
    example = prenorm()
    result = corrected(_of_module(example.module, example.dataset["x"]))
    expected = _run_by_hand(result, example.inputs)
    result = carried(result) if by_norms else result
    list(write_formats(result, tmp_path, ["safetensors", "checkpoint"]))
    for stored in (read_safetensors(tmp_path / "model.safetensors"), read_torch_checkpoint(tmp_path / "model.pt")):
        module = quantized_module(example.module, stored)
        assert {name for name in stored.tensors if name not in module.state_dict()} == set()
        with torch.no_grad():
            got = module(*example.inputs)
        noise = Noise()
        noise.add(expected, got)
        assert noise.exact or (noise.db or 0) > 100


def test_what_was_saved_is_restored(quantized: QuantizeExample, opened: OpenExample, tmp_path: Path) -> None:
    result = carried(corrected(quantized(prenorm())))
    result = replace(result, layers=[replace(layer, rounding="gptq") for layer in result.layers])
    write_safetensors(result, tmp_path / "model.safetensors")
    restored = restore(result.source, read_safetensors(tmp_path / "model.safetensors"))
    assert [layer.layer.name for layer in restored.layers] == [layer.layer.name for layer in result.layers]
    for got, wanted in zip(restored.layers, result.layers, strict=True):
        _require_same(got, wanted)
        assert got.weight_sqnr_db is not None
        assert got.weight_sqnr_db > 30  # compared in the float weight's own domain


def test_a_job_with_all_of_it_is_validated(quantized: QuantizeExample, tmp_path: Path) -> None:
    example = prenorm()
    result, out = carried(corrected(quantized(example))), tmp_path / "out"
    out.mkdir()
    list(write_formats(result, out, ["safetensors", "pt2"]))
    samples = open_dataset(example.save_dataset(tmp_path / "x.safetensors"), result.source.inputs, None)  # type: ignore[attr-defined]
    with shared_second_process(tmp_path) as reader:
        opened = reader.open(out)
        evaluation = evaluate(result, samples, reader, lambda *_: None)
    about = EvaluationReport(source="calibration_samples", samples=samples.count)
    report = build_report(result, Validated(about, opened, evaluation), Effort())
    assert {check.name: check.passed for check in report.checks} == dict.fromkeys(
        ["sqnr", "size", "load_and_run", "weight_range"], True
    ) | {"size": report.checks[1].passed}  # it is too small to be smaller
    assert all(check.passed for check in validate(out).checks if check.name != "size")


def test_a_factor_that_is_not_valid_is_found(quantized: QuantizeExample, tmp_path: Path) -> None:
    result = corrected(quantized(projections()), "scale")
    layers = [replace(layer, pre_quant_scale=torch.zeros(4)) for layer in result.layers]
    list(write_formats(replace(result, layers=layers), tmp_path, ["safetensors"]))
    details = [check.detail for check in validate(tmp_path).checks if check.name == "weight_range"]
    assert details == ["Layer 'key': a factor of its input is not valid."]


@pytest.mark.parametrize("make", [convolutional, prenorm, unusual], ids=lambda make: make.__name__)
def test_a_layer_is_measured_as_it_computes(quantized: QuantizeExample, make: object) -> None:
    result, example = corrected(quantized(made := make(), layer_types=TYPES)), made  # type: ignore[operator]
    measured, expected = _measured(result, example.inputs), {n.layer.name: Noise() for n in result.layers}
    with ExitStack() as stack:
        for layer in result.layers:
            assert layer.layer.module is not None
            hook = layer.layer.module.register_forward_hook(
                lambda _, given, output, layer=layer: expected[layer.layer.name].add(output, by_hand(layer, given[0]))
            )
            stack.callback(hook.remove)
        with torch.no_grad():
            result.source.run(example.inputs)
    for name, noise in expected.items():
        assert measured.layers[name].db == pytest.approx(noise.db, abs=1e-3)


TYPES = ["Linear", "Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"]


def test_inputs_that_stay_in_float_are_never_clamped(quantized: QuantizeExample) -> None:
    result = corrected(quantized(projections()), "outliers")
    x = torch.zeros(8, 4)
    x[:, [1, 3]] = 1e6  # the channels that `corrected` keeps in float
    assert {name: share.value for name, share in _measured(result, (x,)).saturation.items()} == {"query": 0, "key": 0}
    x[:, 0] = 1e6
    assert {name: share.value for name, share in _measured(result, (x,)).saturation.items()} == {
        "query": 0.5,
        "key": 0.5,
    }


def test_values_are_counted_behind_the_product(quantized: QuantizeExample) -> None:
    result = corrected(quantized(projections()), "scale")
    small = replace(result, layers=[replace(n, pre_quant_scale=torch.full([4], 1e-6)) for n in result.layers])
    assert {share.value for share in _measured(small, (torch.full((8, 4), 1e3),)).saturation.values()} == {0}


def test_weights_that_gptq_rounded_may_move_further(quantized: QuantizeExample) -> None:
    result = quantized(projections())
    moved = [replace(layer, weight=layer.weight.flip(0)) for layer in result.layers]
    assert not _range_check(replace(result, layers=moved)).passed
    gptq = [replace(layer, rounding="gptq") for layer in moved]
    check = _range_check(replace(result, layers=gptq))
    assert (check.passed, check.detail) == (
        True,
        "All values of the 2 layers that are not rounded to nearest are within their range.",
    )
    off_grid = replace(gptq[0], weight=torch.full_like(gptq[0].weight, -128))
    assert not _range_check(replace(result, layers=[off_grid, gptq[1]])).passed


def test_checkpoints_keep_all_of_it(quantized: QuantizeExample, tmp_path: Path) -> None:
    result = carried(corrected(quantized(prenorm())))
    choices, _ = select(result.source.layers, result.recipe)
    finished = finished_layers(Checkpoints(tmp_path, "key", 0.0), choices)
    for layer in result.layers:
        finished.add(layer.layer.name, replace(layer, rounding="gptq"))
    finished.close()
    found = finished_layers(Checkpoints(tmp_path, "key", 0.0), choices).read()
    assert len(found) == len(result.layers)
    for layer in result.layers:
        _require_same(found[layer.layer.name], replace(layer, rounding="gptq"))


def test_factors_lie_beside_the_inputs_that_an_output_reads() -> None:
    scale = torch.arange(1.0, 7.0)
    assert torch.equal(beside_weight(scale, [4, 6], transposed=False), scale.expand(4, 6))
    grouped = beside_weight(scale, [4, 3, 2, 2], transposed=False)
    assert torch.equal(grouped[:, :, 0, 0], torch.stack([scale[:3], scale[:3], scale[3:], scale[3:]]))
    assert torch.equal(beside_weight(scale, [6, 2, 3], transposed=True)[:, 0, 0], scale)


class Absent:
    """A second process that never answers: what is measured in this one stays."""

    beside: dict[str, dict[int, Tensor]] = {}  # noqa: RUF012

    def start(self, batch: Sequence[Tensor], also: Sequence[str] = ()) -> None: ...

    def finish(self) -> dict[int, Tensor] | None:
        return None


def _measured(result: Quantized, inputs: tuple[Tensor, ...]) -> Evaluation:
    return evaluate(result, [inputs], Absent(), lambda *_: None)  # type: ignore[arg-type]


def _range_check(result: Quantized):  # type: ignore[no-untyped-def]
    about = EvaluationReport(source="none", samples=0)
    report = build_report(result, Validated(about, opened=True), Effort())
    return next(check for check in report.checks if check.name == "weight_range")


def _of_module(module: torch.nn.Module, x: Tensor) -> Quantized:
    source, recipe = module_source(module), Recipe()
    choices, skipped = select(source.layers, recipe)
    return quantize_source(
        source, recipe, QuantizationPlan(choices, skipped, IterableBatches([x], read_inputs), None), lambda *_: None
    )


def _run_by_hand(result: Quantized, inputs: tuple[Tensor, ...]) -> Tensor:
    with ExitStack() as stack, torch.no_grad():
        for layer in result.layers:
            assert layer.layer.module is not None
            hook = layer.layer.module.register_forward_hook(lambda _, given, __, layer=layer: by_hand(layer, given[0]))
            stack.callback(hook.remove)
        output = result.source.run(inputs)[0]
    assert isinstance(output, Tensor)
    return output


def _require_same(got: QuantizedLayer, wanted: QuantizedLayer) -> None:
    stored, expected = stored_corrections(got), stored_corrections(wanted)
    assert stored.keys() == expected.keys()
    assert all(torch.equal(stored[name], expected[name]) for name in expected)
    assert torch.equal(got.weight, wanted.weight)
    assert (got.scaled_by, got.rounding) == (wanted.scaled_by, wanted.rounding)
