"""The operators that a program may call: a fixed list of functional ones, each exported, checked and run in the tests.

`python -m scripts.list_operators` regenerates the list from those tests.
"""

from functools import cache
from pathlib import Path

LIST = Path(__file__).with_name("operators.txt")
"""One target per line, sorted."""


@cache
def allowed() -> frozenset[str]:
    """Return the targets, as torch writes them: `torch.ops.aten.linear.default`."""
    return frozenset(LIST.read_text("ascii").split())


def is_allowed(target: str) -> bool:
    """Return whether a node may call the target."""
    return target in allowed()
