"""Programs of single operators, made from the samples with which torch tests its own.

A sample has a key, `name|dtype|variant|number`: the number of one of the samples of an entry of torch's table, called
as a function, as a method, in place, or by another name. `target@key` is a call that torch makes as it runs a sample:
what an export of a decomposed program has in it. `operator_samples.txt` has a key for each operator that
tests/operators.py lacks; `python -m scripts.list_samples` writes it.
"""

import itertools
import sys
import unittest
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

LIST = Path(__file__).with_name("operator_samples.txt")
"""A target and the key of a sample a line."""
MOST_SAMPLES = 10


@dataclass(frozen=True)
class Call:
    """A function and its arguments, nested; `target` is a call within that stands for it."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors among the arguments: what a program of the call takes."""
        leaves = pytree.tree_leaves((self.arguments, dict(self.keywords)))
        return tuple(leaf.detach() for leaf in leaves if isinstance(leaf, Tensor))


class Sampled(nn.Module):
    """A call as a network, which returns the tensors of the result."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self.call = call

    def forward(self, *tensors: Tensor) -> list[Tensor]:
        leaves, spec = pytree.tree_flatten((self.call.arguments, dict(self.call.keywords)))
        given = iter(tensors)
        leaves = [next(given).clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        arguments, keywords = pytree.tree_unflatten(leaves, spec)
        result = self.call.function(*arguments, **keywords)
        return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]


def _stand_in() -> None:
    """Stand in for a package that torch's tables import, for the tests of torch itself: it is not needed here."""
    package = ModuleType("expecttest")
    package.TestCase = unittest.TestCase  # type: ignore[attr-defined]
    sys.modules.setdefault("expecttest", package)


def modules(every: Callable[[int], bool]) -> Iterator[tuple[str, nn.Module, tuple[Any, ...], Mapping[str, Any]]]:
    """Torch's own modules with arguments of a call, two for each whose position in torch's table is wanted."""
    _stand_in()
    from torch.testing._internal.common_modules import module_db  # noqa: PLC0415 - it takes seconds

    for info in (info for position, info in enumerate(module_db) if every(position)):
        wanted = {"device": "cpu", "dtype": torch.float32, "requires_grad": False, "training": False}
        for given in itertools.islice(info.module_inputs_func(info, **wanted), 2):
            built = given.constructor_input
            call = given.forward_input
            yield info.name, info.module_cls(*built.args, **built.kwargs).eval(), call.args, call.kwargs


@cache
def table() -> Mapping[str, Any]:
    """Torch's table of its operators."""
    _stand_in()
    from torch.testing._internal.common_methods_invocations import op_db  # noqa: PLC0415 - it takes seconds

    return {entry.full_name: entry for entry in op_db}


def variants(entry: Any) -> Mapping[str, Callable[..., Any]]:
    """The ways to call an entry: `op`, `method`, `inplace`, and each of its other names."""
    found = {"op": entry.get_op(), "method": entry.get_method(), "inplace": entry.get_inplace()}
    for alias in entry.aliases:
        found |= {alias.name: alias.op, f"{alias.name}.inplace": alias.inplace_variant}
    return {name: function for name, function in found.items() if function is not None}


def samples(entry: Any, dtype: torch.dtype) -> Iterator[Any]:
    """The first samples of an entry, the same in each run."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield from itertools.islice(entry.sample_inputs("cpu", dtype, requires_grad=False), MOST_SAMPLES)


def call_of(key: str) -> Call:
    """The call that a key names."""
    target, _, key = key.rpartition("@")
    name, dtype, variant, number = key.split("|")
    entry = table()[name]
    sample = next(itertools.islice(samples(entry, getattr(torch, dtype)), int(number), None))
    call = Call(variants(entry)[variant], (sample.input, *sample.args), sample.kwargs)
    return calls_within(call)[target] if target else call


class _Watching(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps the first call of each operator."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: dict[str, Call] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        copied = pytree.tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, (args, kwargs or {}))
        self.calls.setdefault(name_of(func), Call(func, *copied))
        return func(*args, **(kwargs or {}))


def calls_within(call: Call) -> Mapping[str, Call]:
    """The operators that torch calls as it runs a call, by target."""
    watching = _Watching()
    with torch.no_grad(), watching:
        Sampled(call)(*call.tensors)
    return watching.calls


def name_of(target: Any) -> str:
    """What an export calls an operator."""
    return f"torch.ops.{target}" if isinstance(target, OpOverload) else str(target)


def program(call: Call) -> ExportedProgram:
    """The export of a call. Raises what torch's export raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(Sampled(call), call.tensors)


def keys() -> Mapping[str, str]:
    """The key of the sample for each operator that has one."""
    return dict(line.split(" ", 1) for line in LIST.read_text().splitlines())
