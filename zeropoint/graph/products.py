"""Matrix products in every spelling: linear, mm, matmul, bmm, mv, addmm, baddbmm, inner, tensordot and einsum.

The weight may be either factor. Each product is described as an einsum of values and weight (`Spelling`): dimensions
with one number belong together.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from zeropoint.graph.constants import Constants
from zeropoint.graph.views import REPEATED, View, view_of
from zeropoint.model.layer_call import Spelling, Terms

aten = torch.ops.aten

_PRODUCTS = (aten.mm.default, aten.matmul.default, aten.bmm.default, aten.mv.default)
_SUMS = (aten.addmm.default, aten.baddbmm.default)
_CONTRACTIONS = (aten.tensordot.default, aten.inner.default)
_ELLIPSIS = "..."


@dataclass(frozen=True)
class Product:
    """A product of values and a constant weight, and what is added to it."""

    input: Node
    view: View
    """Where the weight comes from; its dimensions are those of `spelling.weight`."""
    spelling: Spelling
    addend: Node | None


def product_of(node: Node, arguments: Mapping[str, Any], constants: Constants) -> Product | None:
    """Return the product that an operator computes, given its arguments by name; None if it is no product.

    One factor must be a constant with at least one dimension that counts inputs and one that counts outputs, and none
    that both the values and the result have (a weight for each sample or expert).
    """
    parts = _parts(node, arguments)
    if parts is None or node in constants:
        return None
    factors, terms, result, addend = parts
    for place in (1, 0):
        weight, values = factors[place], factors[1 - place]
        view = view_of(weight)
        if view.root not in constants and weight in constants:
            view = View(weight, tuple(range(weight.meta["val"].dim())))
        if view.root in constants and values not in constants:
            spelling = _spelling(view, terms[1 - place], terms[place], result, weight_first=place == 0)
            return (
                None
                if spelling is None or not _fits(spelling, values, node)
                else Product(values, view, spelling, addend)
            )
    return None


def _fits(spelling: Spelling, values: Node, node: Node) -> bool:
    """Return whether the values are not repeated along a dimension in which the weight repeats."""
    sizes = dict(zip(spelling.values, map(str, values.meta["val"].shape), strict=True))
    result = dict(zip(spelling.result, map(str, node.meta["val"].shape), strict=True))
    return all(sizes[term] == result[term] for term in spelling.others)


def _spelling(view: View, values: Terms, weight: Terms, result: Terms, *, weight_first: bool) -> Spelling | None:
    """Return how the product is spelled; None when it is no product of an input with [out, in]."""
    shape = view.root.meta["val"].shape
    kept = [REPEATED] * len(weight)
    sizes: dict[int, int] = {}
    for place, (term, dim) in enumerate(zip(weight, view.dims, strict=True)):
        if term in values and term in result:
            if dim != REPEATED and shape[dim] != 1:
                return None  # a weight for each sample
        elif dim == REPEATED or term in sizes or (term not in values and term not in result):
            return None
        else:
            kept[place] = term
            sizes[term] = int(shape[dim])
    if len(set(values)) != len(values) or any(term not in result and term not in sizes for term in values):
        return None
    unused = set(range(len(shape))) - {dim for dim, term in zip(view.dims, kept, strict=True) if term != REPEATED}
    if any(shape[dim] != 1 for dim in unused) or set(result) - set(values) - set(sizes):
        return None
    spelling = Spelling(values, tuple(kept), result, sizes, weight_first)
    return spelling if spelling.inputs and spelling.outputs else None


def _parts(
    node: Node, arguments: Mapping[str, Any]
) -> tuple[tuple[Node, Node], tuple[Terms, Terms], Terms, Node | None] | None:
    """Return both factors, the terms of each, those of the result, and what is added."""
    if node.target is aten.linear.default:
        factors, addend = (arguments["input"], arguments["weight"]), arguments.get("bias")
        if arguments["weight"].meta["val"].dim() != 2:
            return None
        others = tuple(range(2, 1 + arguments["input"].meta["val"].dim()))
        return factors, ((*others, 0), (1, 0)), (*others, 1), addend
    if node.target is aten.einsum.default:
        return _einsum(arguments)
    if node.target in _CONTRACTIONS:
        return _contraction(arguments)
    if node.target in _SUMS:
        if arguments.get("alpha", 1) != 1 or arguments.get("beta", 1) != 1:
            return None
        names = ("mat1", "mat2") if node.target is aten.addmm.default else ("batch1", "batch2")
        first, second, addend = *(arguments[name] for name in names), arguments["self"]
    elif node.target in _PRODUCTS:
        (first, second, *_), addend = node.args, None
    else:
        return None
    terms = _matmul(first.meta["val"].dim(), second.meta["val"].dim())
    return terms and ((first, second), (terms[0], terms[1]), terms[2], addend)


def _matmul(first: int, second: int) -> tuple[Terms, Terms, Terms] | None:
    """Return the terms of factors with so many dimensions, and those of their product."""
    if not first or not second or first == second == 1:
        return None
    batch = tuple(range(3, 3 + max(first, second) - 2))
    left = (2,) if first == 1 else (*batch[len(batch) - (first - 2) :], 1, 2)
    right = (2,) if second == 1 else (*batch[len(batch) - (second - 2) :], 2, 0)
    return left, right, (*batch, *((1,) if first > 1 else ()), *((0,) if second > 1 else ()))


def _contraction(arguments: Mapping[str, Any]) -> tuple[tuple[Node, Node], tuple[Terms, Terms], Terms, None] | None:
    """Return the parts of a tensordot, or of an inner product, which sums over the last dimensions of both."""
    factors: tuple[Node, Node] = arguments["self"], arguments["other"]
    shapes = [factor.meta["val"].shape for factor in factors]
    if not all(map(len, shapes)):
        return None
    first, second = (
        [dim % len(shape) for dim in arguments.get(name, [-1])]
        for name, shape in zip(("dims_self", "dims_other"), shapes, strict=True)
    )
    if any(str(shapes[0][left]) != str(shapes[1][right]) for left, right in zip(first, second, strict=True)):
        return None  # a dimension of size 1 is repeated
    left = tuple(range(len(shapes[0])))
    right = tuple(first[second.index(dim)] if dim in second else len(left) + dim for dim, _ in enumerate(shapes[1]))
    summed = {left[dim] for dim in first}
    return factors, (left, right), tuple(term for term in left + right if term not in summed), None


def _einsum(
    arguments: Mapping[str, Any],
) -> tuple[tuple[Node, Node], tuple[Terms, Terms], Terms, Node | None] | None:
    """Return the parts of an einsum of two tensors."""
    factors = arguments["tensors"]
    left, right = sides(arguments["equation"])
    operands = left.split(",")
    if len(factors) != 2 or len(operands) != 2:
        return None
    ranks = [factor.meta["val"].dim() for factor in factors]
    terms = [tuple(_numbers(text, rank)) for text, rank in zip(operands, ranks, strict=True)]
    repeated = max(rank - len(_letters(text)) for text, rank in zip(operands, ranks, strict=True))
    result = tuple(_numbers(right, len(_letters(right)) + (repeated if _ELLIPSIS in right else 0)))
    return (factors[0], factors[1]), (terms[0], terms[1]), result, None


def sides(equation: str) -> tuple[str, str]:
    """Return the operands and the result of an einsum.

    Without an arrow the result has the dimensions of the ellipsis, then the letters that occur once, sorted.
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    if arrow:
        return left, right
    once = sorted(letter for letter in {*left} - {*",."} if left.count(letter) == 1)
    return left, _ELLIPSIS * (_ELLIPSIS in left) + "".join(once)


def _letters(text: str) -> Sequence[str]:
    return [*text.replace(_ELLIPSIS, "")]


def _numbers(text: str, rank: int) -> Iterator[int]:
    """Yield a number for each dimension: that of the letter, or -2, -3, … for those of an ellipsis, last first."""
    before, _, after = text.partition(_ELLIPSIS)
    hidden = rank - len(before) - len(after)
    yield from map(ord, before)
    yield from range(-1 - hidden, -1)
    yield from map(ord, after)
