"""Say of every operator that a program may not call: where it is called, why it is not accepted, and what to do."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from app.intake.program.autocast import AUTOCAST, policy_of
from app.intake.program.module_stack import module_stack
from app.intake.program.operators import is_allowed
from app.intake.program.refused import REASONS, Reason, words

MOST_LISTED = 10

_WORD = re.compile(r"[A-Za-z0-9_.]{1,128}")
_PATH = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_LINE = re.compile(r'File "([^"\n]*?)([A-Za-z0-9_.-]{1,64})", line ([0-9]{1,7})')
_REASONS: tuple[tuple[re.Pattern[str], Reason], ...] = (
    (
        re.compile(r"torch\.ops\.higher_order\.(cond|while_loop|scan|map|map_impl|associative_scan|switch)"),
        Reason(
            "branches or loops by values",
            "Compute both branches and choose with torch.where, unroll the loop, or export the part of the model "
            "without it.",
        ),
    ),
    (
        re.compile(re.escape(AUTOCAST)),
        Reason(
            "changes types as it runs, under autocast",
            "Export the model without autocast: quantization starts from float32.",
        ),
    ),
    (
        re.compile(
            r"torch\.ops\.higher_order\.(auto_functionalized|triton_kernel_wrapper|effects|with_effects|print).*"
        ),
        Reason(
            "calls a custom operator or kernel",
            "Replace custom operators by torch's own before the export; only these run here.",
        ),
    ),
    (
        re.compile(r"torch\.ops\.higher_order\..*"),
        Reason(
            "runs a graph of its own",
            "Call what is inside of it as it is: without torch.compile, checkpoints, flex_attention or the like.",
        ),
    ),
    (
        re.compile(r"torch\.ops\.(quantized_decomposed|quantized|quantized_\w+|torchao|pt2e)\..*"),
        Reason("is part of a model that is quantized already", "Export the float model, before any quantization."),
    ),
    (
        re.compile(r"torch\.ops\.transformers\.grouped_mm_fallback\..*"),
        Reason(
            "is a custom operator of transformers",
            'Call model.set_experts_implementation("batched_mm") before the export.',
        ),
    ),
    (
        re.compile(r"torch\.ops\.(?!aten\.)[A-Za-z0-9_]+\..*"),
        Reason(
            "is a custom operator",
            "Replace custom operators by torch's own before the export; only these run here.",
        ),
    ),
)
"""Of operators that are not of torch's aten; those are in `refused`."""


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


def _reason(target: str) -> Reason:
    own = next((reason for names, reason in _REASONS if names.fullmatch(target)), None)
    return own or REASONS[words().get(target, "unseen")]


def _described(target: str, position: int, node: Mapping[str, Any]) -> str:
    """Return one sentence: `node 3: target: torch.ops.aten.rand.default is not accepted: … (in a.b, model.py:7).`"""
    shown = target if _WORD.fullmatch(target) else "this operator"
    why, places = _reason(target).why + _within(node), list(_places(node))
    where = f" ({', '.join(places)})" if places else ""
    return f"node {position}: target: {shown} is not accepted{f', it {why}' if why else ''}{where}."


def _within(node: Mapping[str, Any]) -> str:
    """Return which operators keep an autocast from being inlined, "" for any other node."""
    try:
        (graph,) = [entry["arg"]["as_graph"]["graph"] for entry in node["inputs"] if "as_graph" in entry["arg"]]
        unknown = dict.fromkeys(inner["target"] for inner in graph["nodes"] if policy_of(inner) is None)
    except (AttributeError, KeyError, TypeError, ValueError):
        return ""
    named = [target for target in unknown if isinstance(target, str) and _WORD.fullmatch(target)][:MOST_LISTED]
    return f", and what it does to {', '.join(named)} is not known" if named and node["target"] == AUTOCAST else ""


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
