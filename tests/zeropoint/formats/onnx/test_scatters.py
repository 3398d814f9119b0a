"""What is scattered to one place is in ONNX what it is in torch: fewer indices than values, and means."""

from itertools import product
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from zeropoint import quantize
from zeropoint.formats.onnx.scatters import rewrite_scatters


class Scattered(nn.Module):
    """Values of a linear, reduced at the places that `index` names; fewer of them than there are."""

    def __init__(self, reduce: str, dim: int, include_self: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.reduce, self.dim, self.include_self = reduce, dim, include_self

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        y = self.linear(x)
        places = torch.ones_like(y)
        if self.reduce == "add":
            return places.scatter_add(self.dim, index, y)
        return places.scatter_reduce(self.dim, index, y, self.reduce, include_self=self.include_self)


def inputs() -> tuple[Tensor, Tensor]:
    return torch.randn(4, 5, 6), torch.randint(0, 4, (4, 4, 6))


@pytest.mark.parametrize(
    ("reduce", "dim", "include_self"), list(product(("mean", "sum", "amax", "add"), (1, -1), (True, False)))
)
@pytest.mark.sampled(4)
def test_reductions_are_those_of_torch(tmp_path: Path, reduce: str, dim: int, include_self: bool) -> None:
    torch.manual_seed(0)
    batches = [inputs() for _ in range(4)]
    rows = torch.export.Dim("rows", max=64)
    module = Scattered(reduce, dim, include_self).eval()
    program = torch.export.export(module, batches[0], dynamic_shapes=({0: rows}, {0: rows}))
    result = quantize(program, batches, recipe={"formats": ["pt2", "onnx"]}, progress=False)
    result.save(tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    feed = {name: tensor.numpy() for name, tensor in zip(names, batches[0], strict=True)}
    np.testing.assert_allclose(session.run(None, feed)[0], result(*batches[0]).detach().numpy(), atol=0.02)


class Mean(nn.Module):
    def __init__(self, include_self: bool) -> None:
        super().__init__()
        self.include_self = include_self

    def forward(self, x: Tensor, index: Tensor, values: Tensor) -> Tensor:
        return x.scatter_reduce(0, index, values, "mean", include_self=self.include_self)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
@pytest.mark.parametrize("include_self", [True, False])
def test_a_mean_is_spelled_out_exactly(include_self: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    arguments = (
        torch.randint(-9, 9, (6, 3)).to(dtype),
        torch.randint(0, 4, (8, 3)),
        torch.randint(-9, 9, (8, 3)).to(dtype),
    )
    program = torch.export.export(Mean(include_self), arguments)
    expected = program.module()(*arguments)
    rewrite_scatters(program.graph_module)
    assert not any(node.target is torch.ops.aten.scatter_reduce.two for node in program.graph.nodes)
    assert torch.equal(program.module()(*arguments), expected)
