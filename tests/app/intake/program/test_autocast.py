"""An autocast on the cpu is inlined with its casts: the program gives what the module gives, bit for bit."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's own name for it

from app.intake.limits import Limits
from app.intake.program.autocast import policies
from app.intake.program.operators import allowed
from app.intake.program.read import read_program
from tests.factories import fresh_of
from zeropoint import quantize

WIDTH = 16
DTYPES = (torch.bfloat16, torch.float16)
pytestmark = pytest.mark.filterwarnings("ignore")  # torch says that an autocast has an operator that does nothing in it


class Cast(nn.Module):
    """A function under an autocast, in a module with weights of every kind."""

    def __init__(self, function: Callable[[Any, Tensor], Any], dtype: torch.dtype) -> None:
        super().__init__()
        self.function, self.dtype = function, dtype
        self.linear, self.tied = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.conv, self.norm = nn.Conv1d(2, 4, 3), nn.LayerNorm(WIDTH)
        self.weight = nn.Parameter(torch.randn(WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Any:
        y = x * 2
        with torch.autocast("cpu", dtype=self.dtype):
            result = self.function(self, y)
        return result, y


def _nested(m: Any, x: Tensor) -> Any:
    with torch.no_grad():
        y = m.linear(x)
    with torch.autocast("cpu", enabled=False):
        z = m.tied(x) + y
    with torch.autocast("cpu", dtype=torch.float16):
        w = z @ m.weight
    return m.tied(w), y, z


def _written_through_views(m: Any, x: Tensor) -> Any:
    y = x * 2
    first = m.linear(y)
    y[:, 0] = 3.0
    second = m.linear(y)
    y.view(-1)[:WIDTH].zero_()
    with torch.no_grad():
        third = m.linear(y)
        y[0].add_(1)
    return first, second, third, m.linear(y)


FUNCTIONS: dict[str, Callable[[Any, Tensor], Any]] = {
    "linear": lambda m, x: m.linear(x),
    "one weight twice": lambda m, x: m.linear(m.linear(x)),
    "product": lambda m, x: x @ m.weight,
    "convolution": lambda m, x: m.conv(x.reshape(-1, 2, 8)),
    "normalization": lambda m, x: m.norm(m.linear(x)),
    "softmax": lambda m, x: m.linear(x).softmax(-1),
    "types that meet": lambda m, x: torch.cat([m.linear(x), x]) + x.sum(),
    "attention": lambda m, x: F.scaled_dot_product_attention(m.linear(x)[None], m.tied(x)[None], x[None]),
    "activations": lambda m, x: F.gelu(m.linear(x)).relu() + torch.tanh(x),
    "integers and float64": lambda m, x: m.linear(x).argmax(-1).float() + x.double().sum(),
    "constant padding": lambda m, x: F.pad(m.linear(x), (1, 1)) + F.pad(x, (1, 1), value=2.0),
    "other padding": lambda m, x: F.pad(m.linear(x)[None], (1, 1), "reflect") + F.pad(x[None], (1, 1), "circular"),
    "losses": lambda m, x: F.mse_loss(m.linear(x), x),
    "regions within": _nested,
    "sizes": lambda m, x: m.linear(x).reshape(x.shape[0] * 2, -1) + x.reshape(-1, 8),
    "no operator": lambda _, x: x,
    "in place, through views of what was cast": _written_through_views,
    "in place": lambda m, x: m.linear(x).add_(1).relu_(),
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_program_gives_what_the_module_gives(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    module, x = Cast(FUNCTIONS[name], dtype).eval(), torch.randn(4, WIDTH)
    expected = module(x)
    batch = torch.export.Dim("batch", min=2, max=64)
    torch.export.save(torch.export.export(module, (x,), dynamic_shapes=({0: batch},)), tmp_path / "model.pt2")
    fresh = fresh_of(tmp_path / "model.pt2")
    found = torch.export.load(io.BytesIO(fresh)).module()(x)
    leaves = torch.utils._pytree.tree_leaves
    for one, other in zip(leaves(found), leaves(expected), strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    (tmp_path / "fresh.pt2").write_bytes(fresh)
    assert fresh_of(tmp_path / "fresh.pt2") == fresh


def test_layers_under_an_autocast_are_listed_and_quantized(tmp_path: Path) -> None:
    module = Cast(lambda m, x: m.tied(m.linear(x).relu()).float(), torch.bfloat16).eval()
    torch.export.save(torch.export.export(module, (torch.randn(4, WIDTH),)), tmp_path / "model.pt2")
    facts = read_program(tmp_path / "model.pt2", Limits()).facts
    assert {(layer.name, layer.type) for layer in facts.layers} == {("linear", "Linear"), ("tied", "Linear")}
    (tmp_path / "model.pt2").write_bytes(fresh_of(tmp_path / "model.pt2"))
    quantized = quantize(tmp_path / "model.pt2", [(torch.randn(4, WIDTH),) for _ in range(4)])
    assert {layer.name for layer in quantized.report.layers} == {"linear", "tied"}


def test_policies_are_of_operators_that_are_taken() -> None:
    assert set(policies().values()) == {"none", "lower", "float32", "widest"}
    assert {policies()[f"torch.ops.aten.{name}"] for name in ("cat.default", "relu.default", "dropout.default")} == {
        "none"
    }
    assert {name.partition(":")[0] for name in policies()} <= allowed()
    for name in ("linear.default", "conv2d.default", "matmul.default", "scaled_dot_product_attention.default"):
        assert policies()[f"torch.ops.aten.{name}"] == "lower"
    assert policies()["torch.ops.aten.index_copy.default"] == "widest"
