"""Views: follow an operator's argument back through operators that only rearrange a tensor."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch.fx import Node

aten = torch.ops.aten

_SHAPES = (aten.view.default, aten.reshape.default, aten._unsafe_view.default)
_COPIES = (
    *(aten.detach.default, aten.alias.default, aten.lift_fresh_copy.default),
    *(aten.clone.default, aten.contiguous.default),
)
_CASTS = (aten.to.dtype, aten._to_copy.default, aten.to.dtype_layout)

REPEATED = -1


@dataclass(frozen=True)
class View:
    """An argument that shows another node's values."""

    root: Node
    dims: tuple[int, ...]
    """For each dimension of the argument, the dimension of the root, or REPEATED."""
    path: tuple[Node, ...] = ()
    """The nodes between the root and the operator, the root's reader last."""

    @property
    def is_identity(self) -> bool:
        """Whether the argument has the root's dimensions in their order."""
        return self.dims == tuple(range(_rank(self.root)))

    @property
    def is_transpose(self) -> bool:
        """Whether the argument is a matrix with the dimensions of the root swapped."""
        return self.dims == (1, 0)


def view_of(node: Node) -> View:
    """Return the node at which the chain of views that ends in `node` begins; `node` itself when it is no view."""
    path: list[Node] = []
    steps: list[Sequence[int]] = []
    while (step := view_step(node)) is not None:
        path.append(node)
        steps.append(step)
        node = cast(Node, node.args[0])
    dims = tuple(range(_rank(node)))
    for step in reversed(steps):
        dims = tuple(REPEATED if place == REPEATED else dims[place] for place in step)
    return View(node, dims, tuple(path))


def view_step(node: Node) -> Sequence[int] | None:
    """Return for each dimension of a view the dimension of its argument, or REPEATED; None when it is no view."""
    if node.op != "call_function" or not node.args or not isinstance(node.args[0], Node):
        return None
    source, target, arguments = node.args[0], node.target, cast(Sequence[Any], node.args[1:])
    if not isinstance(source.meta.get("val"), torch.Tensor):
        return None
    rank = _rank(source)
    dims = list(range(rank))
    if target in (aten.t.default, aten.numpy_T.default):
        return dims[::-1]
    if target is aten.mT.default:
        return [*dims[:-2], dims[-1], dims[-2]]
    if target is aten.permute.default:
        return [place % rank for place in arguments[0]]
    if target is aten.transpose.int:
        first, second = (place % rank for place in arguments[:2])
        dims[first], dims[second] = dims[second], dims[first]
        return dims
    if target is aten.unsqueeze.default:
        dims.insert(arguments[0] % (rank + 1), REPEATED)
        return dims
    if target is aten.expand.default:
        return _expanded(source, node)
    if target in _SHAPES:
        return _aligned(_sizes(source), _sizes(node)) or _merged(source, node)
    return dims if target in _COPIES or (target in _CASTS and _unchanged(source, node)) else None


def _expanded(source: Node, node: Node) -> Sequence[int]:
    before, after = _sizes(source), _sizes(node)
    added = len(after) - len(before)
    kept = [place if before[place] == after[added + place] else REPEATED for place in range(len(before))]
    return [REPEATED] * added + kept


def _aligned(before: Sequence[str], after: Sequence[str]) -> Sequence[int] | None:
    """Return the dimensions of a view that adds or drops dimensions of size 1; None if it does more."""
    places: list[int] = []
    read = 0
    for size in after:
        while read < len(before) and before[read] != size and before[read] == "1":
            read += 1
        if read < len(before) and before[read] == size:
            places.append(read)
            read += 1
        elif size == "1":
            places.append(REPEATED)
        else:
            return None
    return places if all(size == "1" for size in before[read:]) else None


def _merged(source: Node, node: Node) -> Sequence[int] | None:
    """Return the dimensions of a view that reshapes leading dimensions along which the source only repeats."""
    before, after = _sizes(source), _sizes(node)
    repeated = next((place for place, dim in enumerate(view_of(source).dims) if dim != REPEATED), len(before))
    kept = len(before) - repeated
    added = len(after) - kept
    if not repeated or added < 0 or before[repeated:] != after[added:]:
        return None
    return [REPEATED] * added + list(range(repeated, len(before)))


def _unchanged(source: Node, node: Node) -> bool:
    before, after = source.meta["val"], node.meta["val"]
    return bool(before.dtype == after.dtype and before.device == after.device)


def _rank(node: Node) -> int:
    return int(node.meta["val"].dim())


def _sizes(node: Node) -> list[str]:
    """Return the sizes as text: to compare symbols would add a condition to the program."""
    return [str(size) for size in node.meta["val"].shape]
