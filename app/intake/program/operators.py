"""The operators that a program may call: a fixed list of functional ones, each of which is exported, gated and run in
the tests. `python -m scripts.list_operators` writes the list anew from those tests."""

from functools import cache
from pathlib import Path

LIST = Path(__file__).with_name("operators.txt")
"""One target a line, sorted."""


@cache
def allowed() -> frozenset[str]:
    """Return the targets, as torch writes them: `torch.ops.aten.linear.default`."""
    return frozenset(LIST.read_text("ascii").split())


def is_allowed(target: str) -> bool:
    """Whether a node may call it."""
    return target in allowed()
