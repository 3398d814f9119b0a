"""`model.pt2`: Q/DQ around every quantized layer, shapes still dynamic, nothing of the user's left in it."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.networks import Example, attention, audio, convolutional, counting, projections
from tests.patterns import plain, sequence, structured, unbatched, vision
from tests.zeropoint.conftest import QuantizeExample
from zeropoint.formats.program.writer import quantized_program, write_program
from zeropoint.layers.result import Quantized
from zeropoint.metrics.sqnr import Noise
from zeropoint.model.weight_holder import WeightHolder

pytestmark = [pytest.mark.sampled(7), pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")]

EXAMPLES = [convolutional, audio, attention, counting, projections, vision, sequence, unbatched]

PLAIN = """
import sys, torch
import torch.ao.quantization.fx._decomposed
from safetensors.torch import load_file, save_file
program = torch.export.load(sys.argv[1])
assert "quantization" not in sys.modules
save_file({"y": program.module()(load_file(sys.argv[2])["x"]).detach()}, sys.argv[3])
"""


def test_plain_torch_runs_the_file_with_another_batch_size(quantized: QuantizeExample, tmp_path: Path) -> None:
    example = convolutional()
    write_program(quantized(example), tmp_path / "out.pt2")
    x = torch.randn(7, 1, 8, 8)
    save_file({"x": x}, tmp_path / "x.safetensors")
    paths = [str(tmp_path / name) for name in ("out.pt2", "x.safetensors", "y.safetensors")]
    subprocess.run([sys.executable, "-c", PLAIN, *paths], check=True, cwd=tmp_path)
    noise = Noise()
    noise.add(example.module.eval()(x), load_file(tmp_path / "y.safetensors")["y"])
    assert noise.db is not None
    assert noise.db > 30


@pytest.mark.parametrize("decompose", [False, True], ids=["exported", "decomposed"])
@pytest.mark.parametrize("make", EXAMPLES, ids=lambda make: make.__name__)
def test_the_program_computes_what_the_layers_say(quantized: QuantizeExample, make: object, decompose: bool) -> None:
    """Integer weights and static grids put into the float source by hand give the program's own output."""
    example: Example = make()  # type: ignore[operator]
    result = quantized(example, decompose=decompose)
    with torch.no_grad():
        got = torch.utils._pytree.tree_leaves(quantized_program(result).module()(*example.inputs))
        expected = _by_hand(result, example.inputs)
    for a, b in zip(expected, got, strict=True):
        torch.testing.assert_close(a, b)


def _by_hand(result: Quantized, inputs: tuple[Tensor, ...]) -> list[object]:
    for layer in result.layers:
        assert layer.layer.module is not None
        if isinstance(
            layer.layer.module, WeightHolder
        ):  # a decomposed linear of a transposed input is a product of several matrices
            layer.layer.module.get_parameter("weight").copy_(layer.layer.module.as_read(layer.dequantized_weight))
            continue
        assert layer.activation is not None
        layer.layer.module.get_parameter("weight").copy_(layer.dequantized_weight)
        qparams = layer.activation.qparams
        limits = (qparams.quant_type.quant_min, qparams.quant_type.quant_max)
        layer.layer.module.register_forward_pre_hook(
            lambda _, arguments, qparams=qparams, limits=limits: torch.fake_quantize_per_tensor_affine(
                arguments[0], float(qparams.scale), int(qparams.zero_point), *limits
            )
        )
    return result.source.run(inputs)


def test_a_convolutions_int8_input_is_written_as_uint8_and_means_the_same(quantized: QuantizeExample) -> None:
    """Inductor's convolution stops at run time on int8; a linear takes it."""
    example = plain()
    result = quantized(example, activations={"dtype": "qint8"})
    program = quantized_program(result)
    with torch.no_grad():
        got = program.module()(*example.inputs)
        torch.testing.assert_close(got, _by_hand(result, example.inputs)[0])
    written = [node.args[-1] for node in program.graph.nodes if "quantize_per_tensor" in str(node.target)]
    assert written == [torch.uint8, torch.uint8, torch.int8, torch.int8]


def test_several_inputs_and_outputs_keep_their_structure(quantized: QuantizeExample) -> None:
    example = structured()
    program = quantized_program(quantized(example))
    assert program.call_spec.in_spec is not None
    got = program.module()(*example.inputs, **example.keywords)
    expected = example.module.eval()(*example.inputs, **example.keywords)
    assert got.keys() == expected.keys() == {"scores", "parts"}
    for wanted, output in ((expected["scores"], got["scores"]), (expected["parts"][0], got["parts"][0])):
        noise = Noise()
        noise.add(wanted, output)
        assert (noise.db or 0) > 30


@pytest.mark.parametrize("make", [vision, sequence], ids=lambda make: make.__name__)
def test_what_is_put_before_a_layer_fixes_no_size(quantized: QuantizeExample, make: object) -> None:
    example: Example = make()  # type: ignore[operator]
    program = quantized_program(quantized(example))
    assert [(bounds.lower, bounds.upper) for bounds in program.range_constraints.values()] == [(1, 1024)]
    program.module()(*(torch.cat([tensor] * 3) for tensor in example.inputs))


def test_the_file_holds_neither_samples_nor_float_weights_nor_the_users_paths(
    quantized: QuantizeExample, tmp_path: Path
) -> None:
    write_program(quantized(convolutional()), tmp_path / "out.pt2")
    program = torch.export.load(tmp_path / "out.pt2")
    assert program.example_inputs is None
    assert {name for name, tensor in program.state_dict.items() if tensor.dim() > 1} == {
        "features.0.weight",
        "features.3.weight",
        "head.weight",
    }
    assert all(tensor.dtype == torch.int8 for tensor in program.state_dict.values() if tensor.dim() > 1)
    with zipfile.ZipFile(tmp_path / "out.pt2") as archive:
        graph = next(archive.read(name) for name in archive.namelist() if name.endswith("models/model.json"))
    assert b".py" not in graph


def test_layers_that_read_the_same_values_share_one_pair(quantized: QuantizeExample) -> None:
    program = quantized_program(quantized(projections()))
    pairs = [node for node in program.graph.nodes if "quantize_per_tensor" in str(node.target)]
    assert len(pairs) == 2  # one quantize, one dequantize


def test_dynamic_dimensions_stay_dynamic(quantized: QuantizeExample) -> None:
    program = quantized_program(quantized(audio()))
    assert [(bounds.lower, bounds.upper) for bounds in program.range_constraints.values()] == [(1, 1024)]


def test_per_tensor_weights_and_weight_only_run_too(quantized: QuantizeExample) -> None:
    example = convolutional()
    result = quantized(example, weights={"granularity": "per_tensor"}, activations=None)
    noise = Noise()
    noise.add(example.module.eval()(*example.inputs), quantized_program(result).module()(*example.inputs))
    assert noise.db is not None
    assert noise.db > 30
    assert result.calibration.samples == 0


def test_half_precision_programs_keep_their_dtype(quantized: QuantizeExample) -> None:
    example = audio()
    signal = example.inputs[0].bfloat16()
    dataset = {name: tensor.bfloat16() for name, tensor in example.dataset.items()}
    result = quantized(Example(example.module.bfloat16(), (signal,), example.dynamic, dataset))
    output = quantized_program(result).module()(signal)["features"]
    assert output.dtype == torch.bfloat16
    noise = Noise()
    noise.add(example.module.eval()(signal)["features"], output)
    assert noise.db is not None
    assert noise.db > 20
