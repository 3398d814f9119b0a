"""The refusal of operators names each of them: where it is called in the user's source, why, and what to do."""

import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._higher_order_ops.map import map as map_rows
from torch._higher_order_ops.scan import scan
from torch._higher_order_ops.while_loop import while_loop

from app.errors import Invalid
from app.intake.limits import Limits
from app.intake.program.read import read_program

LIBRARY = torch.library.Library("zeropoint_test", "DEF")  # type: ignore[no-untyped-call]
LIBRARY.define("twice(Tensor x) -> Tensor")  # type: ignore[no-untyped-call]
LIBRARY.impl("twice", lambda x: x * 2, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
torch.library.register_fake("zeropoint_test::twice", lambda x: torch.empty_like(x), lib=LIBRARY)


class Calls(nn.Module):
    """A function in a module inside of another."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.linear, self.noise = nn.Linear(4, 4), Inner(function)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.noise(self.linear(x))
        return result


class Inner(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def refusal_of(tmp_path: Path, function: Callable[[Tensor], Tensor]) -> Invalid:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of the gradients of control flow
        program = torch.export.export(Calls(function).eval(), (torch.randn(4, 4),))
    torch.export.save(program, tmp_path / "model.pt2")
    with pytest.raises(Invalid) as refusal:
        read_program(tmp_path / "model.pt2", Limits())
    assert refusal.value.code == "operator_unsupported"
    return refusal.value


RANDOM: dict[str, Callable[[Tensor], Tensor]] = {
    "randn": lambda x: x + torch.randn(4),
    "randn_like": lambda x: x + torch.randn_like(x),
    "rand": lambda x: x + torch.rand(4, 4),
    "rand_like": lambda x: x + torch.rand_like(x),
    "randint": lambda x: x + torch.randint(0, 4, (4,)),
    "randperm": lambda x: x + torch.randperm(4),
    "bernoulli": lambda x: torch.bernoulli(x.sigmoid()),
    "normal": lambda x: torch.normal(x, 1.0),
    "multinomial": lambda x: torch.multinomial(x.softmax(-1), 2).float(),
    "uniform_": lambda x: x * torch.empty_like(x).uniform_(),
    "normal_": lambda x: x * torch.empty_like(x).normal_(),
    "exponential_": lambda x: x * torch.empty_like(x).exponential_(),
}


@pytest.mark.parametrize("name", RANDOM)
def test_random_numbers_are_refused_in_these_words(tmp_path: Path, name: str) -> None:
    refusal = refusal_of(tmp_path, RANDOM[name])
    assert "draws random numbers: make the noise an input (in noise of class Inner, test_missing_op" in refusal.detail
    assert refusal.remedy == "Make the noise an input of the model."


OTHERS: dict[str, tuple[Callable[[Tensor], Tensor], str, str]] = {
    "size": (lambda x: x.nonzero().float(), "has a result whose size depends on values", "a fixed size"),
    "custom": (torch.ops.zeropoint_test.twice, "is a custom operator", "torch's own"),
    "experts": (
        lambda x: experts(x),
        "is a custom operator of transformers",
        'set_experts_implementation("batched_mm")',
    ),
}


def experts(x: Tensor) -> Tensor:
    """Call the operator that transformers registers for products with experts."""
    import_module("transformers.integrations.moe")  # before the operator is named
    ends = torch.full((1,), x.shape[0], dtype=torch.int32)
    product: Tensor = torch.ops.transformers.grouped_mm_fallback(x, torch.ones(1, x.shape[1], x.shape[1]), ends)
    return product


@pytest.mark.parametrize("name", OTHERS)
def test_other_operators_are_named_as_what_they_are(tmp_path: Path, name: str) -> None:
    function, why, remedy = OTHERS[name]
    refusal = refusal_of(tmp_path, function)
    assert f"is not accepted, it {why} (in noise of class Inner" in refusal.detail
    assert remedy in refusal.remedy


def _loop(x: Tensor) -> Tensor:
    def grow(count: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        return count + 1, values * 2

    result: Tensor = while_loop(lambda count, _: count < 3, grow, (torch.zeros((), dtype=torch.int64), x))[1]  # type: ignore[no-untyped-call]
    return result


FLOW: dict[str, Callable[[Tensor], Tensor]] = {
    "cond": lambda x: torch.cond(x.sum() > 0, lambda v: v + 1, lambda v: v - 1, (x,)),
    "map_impl": lambda x: map_rows(lambda v, *_: v * 2, x),
    "scan": lambda x: scan(lambda carry, v: (carry + v, carry * v), torch.zeros(4), x)[1],
    "while_loop": _loop,
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", FLOW)
def test_control_flow_is_named_as_what_it_is(tmp_path: Path, name: str) -> None:
    refusal = refusal_of(tmp_path, FLOW[name])
    assert f"torch.ops.higher_order.{name} is not accepted, it branches or loops by values" in refusal.detail
    assert "choose with torch.where, unroll the loop" in refusal.remedy


OF_TORCH: dict[str, tuple[Callable[[Tensor], Tensor], str, str]] = {
    "training": (lambda x: torch.ops.aten.tanh_backward(x, x), "is a step of training", "model.eval()"),
    "internal": (
        lambda x: torch.ops.aten._masked_softmax(x, x > 0, -1, 2),
        "a kernel that torch calls by itself",
        "torch",
    ),
}


@pytest.mark.parametrize("name", OF_TORCH)
def test_operators_of_torch_are_refused_with_the_reason_on_the_list(tmp_path: Path, name: str) -> None:
    function, why, remedy = OF_TORCH[name]
    refusal = refusal_of(tmp_path, function)
    assert why in refusal.detail
    assert remedy in refusal.remedy


def test_every_operator_that_is_missing_is_named_once(tmp_path: Path) -> None:
    refusal = refusal_of(
        tmp_path, lambda x: torch.ops.zeropoint_test.twice(torch.randn_like(x) + torch.rand_like(x)) * 2
    )
    assert [refusal.detail.count(name) for name in ("randn_like", "rand_like", "twice")] == [1, 1, 1]
    assert refusal.detail.startswith("models/model.json: node 1: target: torch.ops.aten.randn_like.default")
    assert "Make the noise an input" in refusal.remedy
    assert "custom operators" in refusal.remedy
