"""Write app/intake/program/autocast.txt: what an autocast on the cpu does to the tensors of each listed operator.

python -m scripts.list_autocast

Every operator in the programs of tests/honest_programs.py and tests/operators.py runs under an autocast, and without
one on tensors that are cast in each of four ways. The way that gives the same numbers in each run is the operator's
policy; one with different ways in different runs has none, and an autocast around it is refused.
"""

import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from app.intake.program.autocast import LIST, PAD
from app.intake.program.operators import allowed
from tests import operators
from tests.honest_programs import HONEST

LOWER = torch.bfloat16
FLOATS = (torch.float32, torch.bfloat16, torch.float16)
POLICIES = ("none", "lower", "float32", "widest")
"""In the order in which they are tried."""


def cast(values: Any, dtype: torch.dtype | None) -> Any:
    """Return arguments with their tensors cast as an autocast does: not float64, and only floats."""

    def one(value: Any) -> Any:
        return value.to(dtype) if isinstance(value, Tensor) and value.dtype in FLOATS else value

    return values if dtype is None else pytree.tree_map(one, values)


def dtype_by(policy: str, values: Any) -> torch.dtype | None:
    """Return what a policy casts arguments to, None if not at all."""
    found = {value.dtype for value in pytree.tree_leaves(values) if isinstance(value, Tensor)}
    widest = next((dtype for dtype in FLOATS if dtype in found), None) if len(found & {*FLOATS}) > 1 else None
    return {"lower": LOWER, "float32": torch.float32, "widest": widest}.get(policy)


def outcome(call: Callable[[Any], Any], values: Any) -> list[Tensor] | str:
    """Return the tensors that a call gives, or the kind of its error; on copies, which it may change."""
    torch.manual_seed(0)
    copies = pytree.tree_map(lambda value: value.clone() if isinstance(value, Tensor) else value, values)
    try:
        return [value for value in pytree.tree_leaves(call(copies)) if isinstance(value, Tensor)]
    except Exception as error:
        return type(error).__name__


def same(one: list[Tensor] | str, other: list[Tensor] | str, *, values: bool = True) -> bool:
    """Return whether two outcomes are equal, bit for bit (NaN is equal to NaN); `values`: not in types alone."""
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    return len(one) == len(other) and all(
        a.dtype == b.dtype and a.shape == b.shape and (not values or torch.equal(a.nan_to_num(), b.nan_to_num()))
        for a, b in zip(one, other, strict=True)
    )


def fitting(target: OpOverload, values: Any) -> set[str] | None:
    """Return the policies that do what an autocast does to one call, with its tensors in three types.

    None: the call fails with each of them.
    """
    left: set[str] | None = None
    tensors = [value for value in pytree.tree_leaves(values) if isinstance(value, Tensor) and value.dtype in FLOATS]
    variants = [values, cast(values, LOWER), *([_mixed(values)] if len(tensors) > 1 else [])]

    def call(given: Any) -> Any:
        return target(*given[0], **given[1])

    for variant in variants:
        with torch.autocast("cpu", dtype=LOWER):
            expected = outcome(call, variant)
        if isinstance(expected, str):
            continue
        results = {policy: outcome(call, cast(variant, dtype_by(policy, variant))) for policy in POLICIES}
        fits = {p for p, result in results.items() if same(expected, result, values="empty" not in str(target))}
        left = fits if left is None else left & fits
    return left


def _mixed(values: Any) -> Any:
    """Return arguments whose first floating tensor is cast."""
    leaves, spec = pytree.tree_flatten(values)
    first = next(at for at, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.dtype in FLOATS)
    return pytree.tree_unflatten([cast(leaf, LOWER) if at == first else leaf for at, leaf in enumerate(leaves)], spec)


class Watcher(fx.Interpreter):
    """Runs a program, and keeps for each of its operators the policies that fit all its calls."""

    def __init__(self, module: fx.GraphModule, found: dict[str, set[str]]) -> None:
        super().__init__(module)
        self._found = found

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        name = f"torch.ops.{str(target).replace('::', '.')}"
        if isinstance(target, OpOverload) and name in allowed():
            name = f"{name}:{(*args, *['constant'] * 3)[2]}" if name == PAD else name
            fits = fitting(target, (args, kwargs))
            if fits is not None:
                self._found[name] = self._found.get(name, {*POLICIES}) & fits
        return super().call_function(target, args, kwargs)


def programs() -> Iterator[tuple[ExportedProgram, Any]]:
    """Yield programs with their inputs."""
    for make in HONEST.values():
        honest = make()
        module = honest.module.train(honest.train)
        program = torch.export.export(module, honest.args, honest.kwargs, dynamic_shapes=honest.dynamic)
        yield program, (honest.args, honest.kwargs)
    for texts in operators.groups():
        program = operators.exported(texts)
        yield program, operators.inputs()[: len(program.graph_signature.user_inputs)]


def main() -> None:
    """Run everything."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    found: dict[str, set[str]] = {}
    for program, inputs in programs():
        module = program.module(check_guards=False)
        assert isinstance(module, fx.GraphModule)
        with torch.no_grad():
            Watcher(module, found).run(*pytree.tree_leaves(inputs), enable_io_processing=False)
    chosen = {name: next((policy for policy in POLICIES if policy in left), None) for name, left in found.items()}
    LIST.write_text("".join(f"{name} {policy}\n" for name, policy in sorted(chosen.items()) if policy), "ascii")
    print(f"{sum(map(bool, chosen.values()))} operators; without a policy: {[n for n, p in chosen.items() if not p]}")


if __name__ == "__main__":
    main()
