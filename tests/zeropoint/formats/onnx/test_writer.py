"""`model.onnx`: integers in the file, the program's names and shapes, and in onnxruntime the program's quality."""

import logging
import sys
from collections import Counter
from collections.abc import Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from tests.matrix import settings
from tests.networks import (
    BATCH,
    Example,
    attention,
    audio,
    convolutional,
    counting,
    dictionary,
    prenorm,
    projections,
    residual,
)
from tests.networks_with_corrections import corrected
from tests.onnx_sessions import in_each_session, session
from tests.zeropoint.conftest import OpenExample, QuantizeExample, SavedResult
from zeropoint.engine.plan import plan
from zeropoint.engine.quantize import quantize_source
from zeropoint.errors import Unsupported
from zeropoint.formats.onnx.writer import require_onnx, write_onnx
from zeropoint.formats.program.writer import quantized_program
from zeropoint.layers.result import Quantized
from zeropoint.loading.readers.onnx import load_runtime
from zeropoint.metrics.sqnr import Noise
from zeropoint.model.source import ProgramSource
from zeropoint.schema.recipe import Recipe
from zeropoint.sources.program import program_source

pytestmark = pytest.mark.sampled(9)

INTEGERS = {onnx.TensorProto.INT8, onnx.TensorProto.UINT8, onnx.TensorProto.UINT4}


def written(result: Quantized, folder: Path) -> onnx.ModelProto:
    write_onnx(result, folder / "model.onnx")
    onnx.checker.check_model(str(folder / "model.onnx"), full_check=True)
    return onnx.load(folder / "model.onnx")


@pytest.fixture(scope="session")
def static(static_residual: SavedResult) -> Quantized:
    return static_residual.result


@pytest.fixture
def static_model(static_residual: SavedResult) -> onnx.ModelProto:
    """What `written` gives of it; each test has one of its own."""
    onnx.checker.check_model(str(static_residual.folder / "model.onnx"), full_check=True)
    return onnx.load(static_residual.folder / "model.onnx")


def run(model: onnx.ModelProto, inputs: Mapping[str, Tensor], *, optimized: bool) -> list[Tensor]:
    opened = session(model.SerializeToString(), optimized=optimized)
    return [torch.from_numpy(array) for array in opened.run(None, {k: v.numpy() for k, v in inputs.items()})]


def optimized(model: onnx.ModelProto, folder: Path) -> "Counter[str]":
    """What onnxruntime makes of the operators."""
    options = load_runtime().SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    load_runtime().InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


def quality(
    result: Quantized, model: onnx.ModelProto, inputs: Mapping[str, Tensor], *, optimized: bool, outputs: bool = True
) -> tuple[float, float]:
    """SQNR in dB of the quantized program in torch, and of the model in onnxruntime, over all floating outputs.

    `outputs`: with the same pairs at outlets in both; without, the program is what `model.pt2` holds.
    """
    program = quantized_program(result, outputs=outputs)
    batch = list(inputs.values())
    with torch.no_grad():
        reference = [value for value in result.source.run(batch) if isinstance(value, Tensor)]
        by_torch = _flat(program, result, batch)
    pairs = zip(reference, by_torch, run(model, inputs, optimized=optimized), strict=True)
    noises = Noise(), Noise()
    for expected, first, second in pairs:
        noises[0].add(expected, first)
        noises[1].add(expected, second)
    torch_db, onnx_db = (noise.db for noise in noises)
    assert torch_db is not None
    assert onnx_db is not None
    return torch_db, onnx_db


def same_quality(
    subtests: pytest.Subtests, result: Quantized, model: onnx.ModelProto, inputs: Mapping[str, Tensor], within_db: float
) -> None:
    def compare(optimized: bool) -> None:
        by_torch, by_onnx = quality(result, model, inputs, optimized=optimized)
        assert abs(by_torch - by_onnx) < within_db

    in_each_session(subtests, compare)


def _flat(program: Any, result: Quantized, batch: list[Tensor]) -> list[Tensor]:
    assert isinstance(result.source, ProgramSource)
    arguments: list[object] = list(batch)
    for position, value in sorted(result.source.constants.items()):
        arguments.insert(position, value)
    args, kwargs = pytree.tree_unflatten(arguments, program.call_spec.in_spec)
    return [value for value in pytree.tree_leaves(program.module()(*args, **kwargs)) if isinstance(value, Tensor)]


WEIGHTS = (
    "symmetric activations in quint8",
    "activations in qint8",
    "weight-only int8",
    "per tensor",
    "asymmetric weights in quint8",
    "scales along another axis",
)


@pytest.mark.parametrize("name", WEIGHTS)
def test_onnxruntime_computes_what_the_program_says(
    quantized: QuantizeExample, tmp_path: Path, subtests: pytest.Subtests, name: str
) -> None:
    result = quantized(residual(), formats=["onnx"], **settings(name))
    require_same_numbers_in_integers(result, written(result, tmp_path), subtests)


def test_onnxruntime_computes_what_the_static_program_says(
    static: Quantized, static_model: onnx.ModelProto, subtests: pytest.Subtests
) -> None:
    require_same_numbers_in_integers(static, static_model, subtests)


def require_same_numbers_in_integers(result: Quantized, model: onnx.ModelProto, subtests: pytest.Subtests) -> None:
    same_quality(subtests, result, model, residual().dataset, 0.2)
    layers = {layer.layer.weight_name for layer in result.layers}
    stored = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert {stored[str(name)] for name in layers} <= INTEGERS
    assert all(np.prod(t.dims) <= 64 for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT)


SMALL = {
    "weight-only int8 in groups": 2,
    "static int8 in groups, asymmetric": 2,
    "weight-only int4 in groups": 2,
    "weight-only int4 in groups, symmetric": 4,
    "float16": None,
    "bfloat16": None,
    "static float8": None,
    "weight-only float8": None,
}
"""With sizes of groups for layers of four inputs."""


@pytest.mark.parametrize("name", SMALL)
def test_every_dtype_of_weights_stays_what_it_is(
    quantized: QuantizeExample, tmp_path: Path, subtests: pytest.Subtests, name: str
) -> None:
    example = projections(32)
    result = quantized(example, formats=["onnx"], **settings(name, SMALL[name]))
    model = written(result, tmp_path)
    same_quality(subtests, result, model, example.dataset, 0.1)
    matrices = [t for t in model.graph.initializer if list(t.dims) == [4, 4]]
    assert len(matrices) == 2
    assert onnx.TensorProto.FLOAT not in {tensor.data_type for tensor in matrices}
    if "int4" in name:
        assert {len(tensor.raw_data) for tensor in matrices} == {8}


@pytest.mark.parametrize("decompose", [False, True], ids=["exported", "decomposed"])
@pytest.mark.parametrize("make", [convolutional, audio, attention], ids=lambda make: make.__name__)
def test_other_graphs_are_served_too(
    quantized: QuantizeExample, tmp_path: Path, subtests: pytest.Subtests, make: Any, decompose: bool
) -> None:
    example: Example = make()
    result = quantized(example, decompose=decompose, formats=["onnx"])
    assert isinstance(result.source, ProgramSource)
    some = {
        value.name: tensor[:2] for value, tensor in zip(result.source.inputs, example.dataset.values(), strict=True)
    }
    same_quality(subtests, result, written(result, tmp_path), some, 0.5)


def test_names_and_dynamic_dimensions_are_those_of_the_program(quantized: QuantizeExample, tmp_path: Path) -> None:
    example = dictionary()
    result = quantized(example, formats=["onnx"])
    model = written(result, tmp_path)
    assert [value.name for value in model.graph.input] == ["batch_x", "batch_mask"]
    assert [value.name for value in model.graph.output] == ["linear_1", "mul_7", "batch_mask_output"]
    batches = {value.type.tensor_type.shape.dim[0].dim_param for value in (*model.graph.input, *model.graph.output)}
    assert len(batches) == 1
    assert batches != {""}
    outputs = run(model, {"batch_x": torch.randn(7, 4), "batch_mask": torch.ones(7, 3)}, optimized=True)
    assert [list(value.shape) for value in outputs] == [[7, 4], [7, 6], [7, 3]]


def test_every_convolution_and_sum_runs_on_integers(static_model: onnx.ModelProto, tmp_path: Path) -> None:
    operators = optimized(static_model, tmp_path)
    assert operators["QLinearConv"] == 3
    assert operators["QLinearAdd"] == 1
    assert operators["Conv"] == operators["Relu"] == operators["BatchNormalization"] == 0


def test_rounding_results_costs_little(
    static: Quantized, static_model: onnx.ModelProto, subtests: pytest.Subtests
) -> None:
    images = residual().dataset

    def compare(optimized: bool) -> None:
        by_torch, by_onnx = quality(static, static_model, images, optimized=optimized, outputs=False)
        assert by_torch - 1 < by_onnx < by_torch + 0.1

    in_each_session(subtests, compare)


class Sequences(torch.nn.Module):
    """Two layers on [batch, 5, 4] that read the same values."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        product: Tensor = self.left(x) * self.right(x)
        return product


def test_matrices_run_on_integers_that_are_made_once(quantized: QuantizeExample, tmp_path: Path) -> None:
    x = torch.randn(8, 5, 4)
    result = quantized(Example(Sequences(), (x[:2],), {"x": {0: BATCH}}, {"x": x}), formats=["onnx"])
    operators = optimized(written(result, tmp_path), tmp_path)
    assert (operators["MatMulIntegerToFloat"], operators["QuantizeLinear"]) == (2, 1)


@pytest.mark.parametrize("recipe", [{}, {"weights": {"dtype": "int4", "group_size": 2}}], ids=["static", "int4"])
@pytest.mark.parametrize("make", [projections, prenorm, residual], ids=lambda make: make.__name__)
def test_what_error_compensation_leaves_is_in_the_file(
    quantized: QuantizeExample, tmp_path: Path, subtests: pytest.Subtests, make: Any, recipe: dict[str, object]
) -> None:
    example: Example = make()
    result = corrected(quantized(example, formats=["onnx"], layer_types=["Linear"], **recipe))
    same_quality(subtests, result, written(result, tmp_path), example.dataset, 0.5)


def test_matrices_with_factors_and_float_inputs_run_on_integers(quantized: QuantizeExample, tmp_path: Path) -> None:
    x = torch.randn(8, 5, 4)
    result = quantized(Example(Sequences(), (x[:2],), {"x": {0: BATCH}}, {"x": x}), formats=["onnx"])
    operators = optimized(written(corrected(result), tmp_path), tmp_path)
    assert (operators["MatMulIntegerToFloat"], operators["QuantizeLinear"], operators["Gather"]) == (2, 1, 1)


def test_a_dead_channel_does_not_overflow_the_biases_of_onnxruntime(
    quantized: QuantizeExample, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    """Its bias is int32 in steps of input scale · weight scale, and that is next to nothing."""
    example = residual()
    with torch.no_grad():
        example.module.get_parameter("block.1.weight")[1] = 1e-10
        example.module.get_parameter("last.weight")[2] *= 1e-10
    result = quantized(example, formats=["onnx"])
    same_quality(subtests, result, written(result, tmp_path), example.dataset, 0.5)


def test_the_file_tells_nothing_of_the_users_files(static_model: onnx.ModelProto) -> None:
    content = static_model.SerializeToString()
    for word in (b".py", b"tests", b"Residual", b"aten", str(Path(__file__).parents[4]).encode()):
        assert word not in content


def test_the_same_result_gives_the_same_bytes(static: Quantized, static_model: onnx.ModelProto, tmp_path: Path) -> None:
    assert written(static, tmp_path).SerializeToString() == static_model.SerializeToString()


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


def test_nothing_is_said_on_the_console(
    quantized: QuantizeExample, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = quantized(convolutional(), formats=["onnx"])
    kept = Kept()
    logging.getLogger("torch.onnx").addHandler(kept)
    capsys.readouterr()
    write_onnx(result, tmp_path / "model.onnx")
    logging.getLogger("torch.onnx").removeHandler(kept)
    assert (kept.said, capsys.readouterr()) == ([], ("", ""))


def test_a_model_that_changes_its_buffers_is_refused(opened: OpenExample) -> None:
    with pytest.raises(Unsupported, match=r"buffer 'calls'.*keeps no state"):
        require_onnx(opened(counting()))


class Halves(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 4, dtype=torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.linear(x)
        return output


class Numbers(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        return self.linear(x), 3


@pytest.mark.filterwarnings("ignore:The tensor attributes self._flat_weights")  # torch's own, of an outermost LSTM
@pytest.mark.parametrize(
    ("module", "dtype", "reason"),
    [
        (Halves(), torch.bfloat16, r"bfloat16 \('linear.bias'\)"),
        (Numbers(), torch.float32, "other than tensors"),
        (torch.nn.LSTM(4, 6, 2, proj_size=3), torch.float32, "LSTM with proj_size"),
        (torch.nn.LSTM(4, 6, bias=False, bidirectional=True, proj_size=2), torch.float32, "LSTM with proj_size"),
    ],
)
def test_what_onnx_or_its_runtime_does_not_know_is_refused(
    module: torch.nn.Module, dtype: torch.dtype, reason: str
) -> None:
    program = torch.export.export(module.eval(), (torch.ones(2, 3, 4, dtype=dtype),))
    with pytest.raises(Unsupported, match=reason) as caught:
        require_onnx(program_source(program))
    assert caught.value.code == "onnx_unsupported"


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_a_folded_normalization_keeps_the_type_of_the_model(tmp_path: Path, dtype: torch.dtype, bias: bool) -> None:
    parts = torch.nn.Conv2d(2, 4, 3, bias=bias), torch.nn.BatchNorm2d(4), torch.nn.Conv2d(4, 3, 1)
    torch.nn.init.uniform_(parts[1].weight, -1, 1)
    source = program_source(
        torch.export.export(torch.nn.Sequential(*parts).to(dtype).eval(), (torch.ones(2, 2, 5, 5, dtype=dtype),))
    )
    recipe = Recipe.model_validate({"activations": None, "formats": ["onnx"]})
    result = quantize_source(source, recipe, plan(source, recipe, None), lambda *_: None)
    if dtype == torch.float64:
        with pytest.raises(Unsupported, match=r"float64 \('0', Conv2d\)"):
            write_onnx(result, tmp_path / "model.onnx")
        return
    model = written(result, tmp_path)
    assert not [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    x = torch.randn(2, 2, 5, 5, dtype=dtype)
    noise = Noise()
    (expected,) = (value for value in source.run([x]) if isinstance(value, Tensor))
    noise.add(expected, run(model, {source.inputs[0].name: x}, optimized=True)[0])
    assert (noise.db or 99) > 30


class Untranslatable(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = torch.special.airy_ai(self.linear(x))
        return output


def test_an_operator_without_onnx_is_refused_in_our_words(tmp_path: Path) -> None:
    source = program_source(torch.export.export(Untranslatable().eval(), (torch.ones(2, 4),)))
    recipe = Recipe.model_validate({"activations": None, "formats": ["onnx"]})
    result = quantize_source(source, recipe, plan(source, recipe, None), lambda *_: None)
    with pytest.raises(Unsupported, match="an operator that torch can't write as ONNX"):
        write_onnx(result, tmp_path / "model.onnx")


def test_without_its_packages_the_refusal_says_what_to_install(
    opened: OpenExample, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = opened(projections())

    class Lacking(PathFinder):
        @classmethod
        def find_spec(cls, fullname: str, *rest: Any) -> Any:
            return None if fullname.startswith("onnx") else super().find_spec(fullname, *rest)

    for name in [name for name in sys.modules if name.partition(".")[0] in ("onnx", "onnxscript")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Lacking if f is PathFinder else f for f in sys.meta_path])
    with pytest.raises(Unsupported, match=r"onnx, .*pip install") as caught:
        require_onnx(source)
    assert caught.value.code == "onnx_unavailable"
