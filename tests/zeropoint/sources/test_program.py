"""A program becomes a source: names, types, dead code, dynamic dimensions, and the same function as before."""

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.networks import BATCH, Example, attention, audio, convolutional, counting, projections
from tests.zeropoint.conftest import OpenExample
from zeropoint.data.batches import Dim, Input
from zeropoint.errors import InvalidModel, Unsupported
from zeropoint.sources.program import open_uploaded_program, program_source

EXAMPLES = [convolutional, audio, attention, counting, projections]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("decompose", [False, True], ids=["exported", "decomposed"])
@pytest.mark.parametrize("make", EXAMPLES, ids=lambda make: make.__name__)
def test_the_source_computes_what_the_module_computes(opened: OpenExample, make: object, decompose: bool) -> None:
    example: Example = make()  # type: ignore[operator]
    source = opened(example, decompose=decompose)
    with torch.no_grad():
        expected = torch.utils._pytree.tree_leaves(example.module.eval()(*example.inputs))
        if make is counting:
            expected = [example.module.linear(*example.inputs) + 1]  # type: ignore[operator]
        got = source.run(example.inputs)
    for a, b in zip(expected, got, strict=True):
        torch.testing.assert_close(a, b)


def test_a_program_that_never_was_a_file_is_a_source_too() -> None:
    example = projections()
    program = torch.export.export(example.module.eval(), example.inputs, dynamic_shapes=example.dynamic)
    source = program_source(program)
    with torch.no_grad():
        torch.testing.assert_close(source.run(example.inputs)[0], example.module(*example.inputs))


def test_layers_carry_the_names_and_types_of_the_users_source(opened: OpenExample) -> None:
    layers = {layer.name: layer for layer in opened(convolutional()).layers}
    assert {name: layer.type for name, layer in layers.items()} == {
        "features.0": "Conv2d",
        "features.1": "BatchNorm2d",
        "features.3": "Conv2d",
        "head": "Linear",
        "unused": "Linear",
    }
    assert isinstance(layers["features.3"].module, nn.Conv2d)
    assert (layers["features.3"].module.groups, layers["features.3"].module.stride) == (2, (2, 2))
    assert layers["features.0"].weight_name == "features.0.weight"


@pytest.mark.parametrize("decompose", [False, True], ids=["exported", "decomposed"])
def test_linear_and_convolutions_are_found_in_decomposed_graphs_too(opened: OpenExample, decompose: bool) -> None:
    layers = opened(convolutional(), decompose=decompose).layers
    assert {layer.name for layer in layers if layer.kind} == {"features.0", "features.3", "head"}


def test_dead_code_is_listed_and_leaves(opened: OpenExample) -> None:
    source = opened(convolutional())
    assert {layer.name: layer.reason for layer in source.layers}["unused"] == "dead_code"
    assert not [name for name in source.program.state_dict if name.startswith("unused")]
    assert source.dead_bytes == (3 * 3 + 3) * 4 + 8  # the layer, and BatchNorm's count of batches


def test_layers_of_one_weight_keep_their_own_names(opened: OpenExample) -> None:
    layers = {layer.name: layer for layer in opened(attention()).layers}
    assert (layers["head"].type, layers["embed"].type) == ("Linear", "Embedding")
    assert layers["head"].weight_name == layers["embed"].weight_name == "head.weight"
    assert isinstance(layers["attention.in_proj"].module, nn.Linear)
    assert layers["attention.in_proj"].type == "MultiheadAttention"


def test_dynamic_dimensions_and_dtypes_are_told(opened: OpenExample) -> None:
    assert opened(convolutional()).inputs == (Input("x", torch.float32, (Dim(1, 1024), 1, 8, 8)),)
    assert opened(attention()).inputs[0] == Input("ids", torch.int64, (2, 5))


def test_a_buffer_that_calls_change_starts_again_after_reset(opened: OpenExample) -> None:
    example = counting()
    source = opened(example)
    first = source.run(example.inputs)
    second = source.run(example.inputs)
    source.reset()
    again = source.run(example.inputs)
    assert isinstance(first[0], torch.Tensor)
    assert isinstance(second[0], torch.Tensor)
    assert not torch.equal(first[0], second[0])
    assert torch.equal(first[0], again[0])  # type: ignore[arg-type]
    assert float(source.program.state_dict["calls"]) == 0.0


class WithOptions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, scale: float, bias: torch.Tensor | None = None) -> torch.Tensor:
        output: torch.Tensor = self.linear(x) * scale
        return output if bias is None else output + bias


def test_inputs_that_the_export_fixed_are_filled_in(opened: OpenExample, tmp_path: Path) -> None:
    module, x = WithOptions().eval(), torch.randn(2, 4)
    program = torch.export.export(module, (x, 3.0), {"bias": None})
    torch.export.save(program, tmp_path / "fixed.pt2")
    source = open_uploaded_program(tmp_path / "fixed.pt2", "cpu")
    assert [spec.name for spec in source.inputs] == ["x"]
    torch.testing.assert_close(source.run([x])[0], module(x, 3.0))


class Repeat(nn.Module):
    def forward(self, x: torch.Tensor, times: int) -> torch.Tensor:
        return x * times


def test_a_number_that_varies_is_refused_by_name(tmp_path: Path) -> None:
    auto = torch.export.Dim.AUTO
    program = torch.export.export(Repeat(), (torch.randn(2, 4), 5), dynamic_shapes=(None, auto))
    torch.export.save(program, tmp_path / "number.pt2")
    with pytest.raises(Unsupported, match="'times'") as refused:
        open_uploaded_program(tmp_path / "number.pt2", "cpu")
    assert refused.value.code == "unsupported_input"


def test_a_file_that_does_not_load_is_refused_without_the_librarys_words(tmp_path: Path) -> None:
    (tmp_path / "model.pt2").write_bytes(b"PK\x03\x04 not an archive")
    with pytest.raises(InvalidModel) as refused:
        open_uploaded_program(tmp_path / "model.pt2", "cpu")
    assert refused.value.code == "program_invalid"
    assert str(tmp_path) not in str(refused.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name_and_place(opened: OpenExample, value: float) -> None:
    example = convolutional()
    with torch.no_grad():
        example.module.get_parameter("head.weight")[3, 7] = value
    with pytest.raises(InvalidModel, match=r"'head.weight'.*\[3, 7\]"):
        opened(example)


def test_infinity_in_a_buffer_is_a_mask_and_welcome(opened: OpenExample) -> None:
    example = convolutional()
    example.module.get_buffer("features.1.running_var").fill_(float("inf"))
    assert opened(example).layers


@pytest.mark.parametrize("kind", ["conv1d", "conv2d", "conv3d", "conv_transpose2d"])
def test_one_number_for_all_dimensions_is_written_in_full(opened: OpenExample, kind: str) -> None:
    """What reads a layer's options (patches of its input, limits for pairs) finds one for each dimension."""
    dimensions = int(kind[-2])

    class Short(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 4, *[3] * dimensions))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            output: torch.Tensor = getattr(torch, kind)(x, self.weight, None, [2], [1])
            return output

    x = torch.randn(8, 4, *[7] * dimensions)
    (layer,) = opened(Example(Short(), (x[:2],), {"x": {0: BATCH}}, {"x": x})).layers
    assert isinstance(layer.module, nn.modules.conv._ConvNd)
    options = (layer.module.stride, layer.module.padding, layer.module.dilation)
    assert options == ((2,) * dimensions, (1,) * dimensions, (1,) * dimensions)
