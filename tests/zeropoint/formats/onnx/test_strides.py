"""Programs whose tensors lie in memory in another order: their files hold no gather over computed indices."""

from itertools import product
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from zeropoint import quantize
from zeropoint.formats.onnx.strides import forget_strides

FORMATS = {1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d}
KINDS: dict[int, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
POOLS = {1: nn.AdaptiveAvgPool1d(1), 2: nn.AdaptiveAvgPool2d(1), 3: nn.AdaptiveAvgPool3d(1)}


class Pooled(nn.Module):
    """A convolution, a pool to one value, and a linear."""

    def __init__(self, dimensions: int, taps: int, end: str) -> None:
        super().__init__()
        self.first, self.pool = KINDS[dimensions](3, 8, taps), POOLS[dimensions]
        self.last, self.end = nn.Linear(8, 4), end

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.first(x))
        x = x.view(x.shape[0], -1) if self.end == "view" else x.flatten(1)
        output: Tensor = self.last(x)
        return output


@pytest.mark.parametrize(
    ("dimensions", "taps", "end", "where"), list(product(KINDS, (1, 3), ("view", "flatten"), ("weights", "inputs")))
)
@pytest.mark.filterwarnings("ignore:No complete tensor found")  # torch says so of weights in another order
@pytest.mark.sampled(13)
def test_a_pool_to_one_value_is_a_mean(tmp_path: Path, dimensions: int, taps: int, end: str, where: str) -> None:
    torch.manual_seed(0)
    network, order = Pooled(dimensions, taps, end).eval(), FORMATS[dimensions]
    batches = [torch.randn(4, 3, *[5] * dimensions) for _ in range(4)]
    if where == "weights":
        network.first.to(memory_format=order)  # type: ignore[call-overload]
    else:
        batches = [batch.to(memory_format=order) for batch in batches]
    program = torch.export.export(network, (batches[0],), dynamic_shapes=({0: torch.export.Dim("rows", max=64)},))
    result = quantize(program, batches, recipe={"formats": ["pt2", "onnx"]}, progress=False, on_failure="ignore")
    result.save(tmp_path)
    model = onnx.load(tmp_path / "model.onnx")
    assert not {"Gather", "GatherND", "Range", "Shape"} & {node.op_type for node in model.graph.node}
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    [found] = session.run(None, {model.graph.input[0].name: batches[0].contiguous().numpy()})
    np.testing.assert_allclose(found, result(batches[0]).detach().numpy(), atol=0.02)


class Restrided(nn.Module):
    """A value whose strides are said again, in a way that changes it or not."""

    def __init__(self, strides: tuple[int, ...]) -> None:
        super().__init__()
        self.strides = strides

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_strided(x, (3, 4, 1), self.strides) + 1


@pytest.mark.parametrize(("strides", "left"), [((4, 1, 1), 0), ((4, 1, 7), 0), ((1, 3, 1), 1), ((0, 1, 1), 1)])
def test_only_what_changes_no_value_is_dropped(strides: tuple[int, ...], left: int) -> None:
    values = torch.arange(12.0).reshape(3, 4, 1)
    program = torch.export.export(Restrided(strides), (values,))
    expected = program.module()(values)
    forget_strides(program.graph_module)
    assert sum(node.target is torch.ops.aten.as_strided.default for node in program.graph.nodes) == left
    assert torch.equal(program.module()(values), expected)


class Heads(nn.Module):
    """Attention, whose heads are joined by a view: as torch's operator, or as code of its own."""

    def __init__(self, masked: bool, causal: bool) -> None:
        super().__init__()
        self.masked, self.causal = masked, causal
        self.joint, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.bias = nn.Parameter(torch.randn(4, 5, 5))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        n, length, width = x.shape
        query, key, value = self.joint(x).view(n, length, 3, 4, 4).permute(2, 0, 3, 1, 4)
        given = mask[:, None] + self.bias if self.masked else None
        y = nn.functional.scaled_dot_product_attention(query, key, value, given, is_causal=self.causal)
        output: Tensor = self.out(y.transpose(1, 2).contiguous().view(n, length, width))
        return output


@pytest.mark.parametrize("decompose", [False, True], ids=["exported", "decomposed"])
@pytest.mark.parametrize(("masked", "causal"), [(False, False), (True, False), (False, True)])
@pytest.mark.sampled(3)
def test_a_view_is_a_reshape(tmp_path: Path, masked: bool, causal: bool, decompose: bool) -> None:
    torch.manual_seed(0)
    batches = [(torch.randn(4, 5, 16), torch.randn(4, 5, 5)) for _ in range(4)]
    rows = torch.export.Dim("rows", max=64)
    with torch.no_grad():  # torch chooses another kernel where a learned mask has gradients, as in the translation
        program = torch.export.export(Heads(masked, causal).eval(), batches[0], dynamic_shapes=({0: rows}, {0: rows}))
    program = program.run_decompositions() if decompose else program
    result = quantize(program, batches, recipe={"formats": ["pt2", "onnx"]}, progress=False)
    result.save(tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    [found] = session.run(None, {name: batches[0][place].numpy() for place, name in enumerate(names)})
    with torch.no_grad():
        np.testing.assert_allclose(found, result(*batches[0]).numpy(), atol=0.02)
