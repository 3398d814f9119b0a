"""Say of every operator that a program may not call: where it is called, why it is not accepted, and what to do."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from app.intake.program.module_stack import module_stack
from app.intake.program.operators import is_allowed

MOST_LISTED = 10

_WORD = re.compile(r"[A-Za-z0-9_.]{1,128}")
_PATH = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_LINE = re.compile(r'File "([^"\n]*?)([A-Za-z0-9_.-]{1,64})", line ([0-9]{1,7})')
_RANDOM = re.compile(
    r"torch\.ops\.aten\.(rand|randn|randint|randperm|bernoulli|normal|uniform|multinomial|exponential|poisson|cauchy"
    r"|log_normal|geometric|random|native_dropout|binomial|dropout|rrelu_with_noise)(_like)?(_functional)?_?\..*"
)
_VALUES = re.compile(
    r"torch\.ops\.aten\.(nonzero|nonzero_static|unique|unique2|_unique|_unique2|unique_dim|unique_consecutive"
    r"|masked_select|bincount|repeat_interleave|item|_local_scalar_dense|sym_constrain_range|_assert_scalar"
    r"|sym_constrain_range_for_size|histogram)\..*"
)
_FLOW = re.compile(r"torch\.ops\.higher_order\.(cond|while_loop|scan|map_impl|associative_scan|switch)")


@dataclass(frozen=True)
class _Reason:
    names: re.Pattern[str]
    why: str
    remedy: str


_REASONS = (
    _Reason(_RANDOM, "draws random numbers: make the noise an input", "Make the noise an input of the model."),
    _Reason(
        _VALUES,
        "has a result whose size depends on values",
        "Give the result a fixed size (torch.where, a mask), or export the part of the model without it.",
    ),
    _Reason(
        _FLOW,
        "branches or loops by values",
        "Compute both branches and choose with torch.where, or export the part of the model without it.",
    ),
    _Reason(
        re.compile(r"torch\.ops\.higher_order\.wrap_with_autocast"),
        "changes types as it runs, under autocast",
        "Export the model without autocast, or save program.run_decompositions(), which has the casts in it.",
    ),
    _Reason(
        re.compile(r"torch\.ops\.higher_order\..*"),
        "runs a graph of its own",
        "Save program.run_decompositions() instead, which may have that graph inlined.",
    ),
    _Reason(
        re.compile(r"torch\.ops\.(?!aten\.)[A-Za-z0-9_]+\..*"),
        "is a custom operator",
        "Replace custom operators by torch's own before the export; only these run here.",
    ),
)
DECOMPOSE = "Save program.run_decompositions() instead: it needs fewer operators. If it is refused too, ask for more."


@dataclass(frozen=True)
class Missing:
    """The operators, described in one text after the place of the first, and what to do about them."""

    detail: str
    remedy: str


def missing_operators(parsed: Any) -> Missing:
    """Return what to say of a parsed program with at least one operator that is not accepted."""
    first = dict[str, tuple[int, Any]]()
    for position, node in enumerate(_nodes(parsed)):
        target = node.get("target")
        if not isinstance(target, str) or not is_allowed(target):
            first.setdefault(target if isinstance(target, str) else "", (position, node))
    described = [_described(target, position, node) for target, (position, node) in first.items()]
    more = f" {len(described) - MOST_LISTED} more operators are not accepted." if len(described) > MOST_LISTED else ""
    remedies = dict.fromkeys(_reason(target).remedy for target in first)
    return Missing(" ".join(described[:MOST_LISTED]) + more, " ".join(remedies))


def _nodes(parsed: Any) -> Iterator[Mapping[str, Any]]:
    yield from (node for node in parsed["graph_module"]["graph"]["nodes"] if isinstance(node, dict))


def _reason(target: str) -> _Reason:
    fallback = _Reason(_WORD, "", DECOMPOSE)
    return next((reason for reason in _REASONS if reason.names.fullmatch(target)), fallback)


def _described(target: str, position: int, node: Mapping[str, Any]) -> str:
    """Return one sentence: `node 3: target: torch.ops.aten.rand.default is not accepted: … (in a.b, model.py:7).`"""
    shown = target if _WORD.fullmatch(target) else "this operator"
    why, places = _reason(target).why, list(_places(node))
    where = f" ({', '.join(places)})" if places else ""
    return f"node {position}: target: {shown} is not accepted{f', it {why}' if why else ''}{where}."


def _places(node: Mapping[str, Any]) -> Iterator[str]:
    """Yield the module of the user's source that makes the call, and the line of code, as far as the file says."""
    metadata = node.get("metadata")
    if not isinstance(metadata, dict):
        return
    stack, trace = metadata.get("nn_module_stack"), metadata.get("stack_trace")
    if isinstance(stack, str) and all(entry.count(",") == len("ab") for entry in filter(None, stack.split(";"))):
        path, kind = next(reversed(module_stack({"metadata": {"nn_module_stack": stack}}).items()), ("", ""))
        if kind:
            yield f"in {path} of class {kind}" if _PATH.fullmatch(path) else f"in the class {kind}"
    lines = _LINE.findall(trace) if isinstance(trace, str) else []
    own = [f"{file} line {line}" for folder, file, line in lines if "/torch/" not in f"/{folder}"]
    yield from own[-1:]
