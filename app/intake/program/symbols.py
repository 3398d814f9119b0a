"""Symbolic sizes: parsed, never evaluated, and printed from the parsed tree.

torch writes a size as sympy's own text, `Mul(Integer(2), Symbol('s77', positive=True, integer=True))`, and evaluates it
as Python when it loads. Here it is parsed into a tree of known calls on integers and symbols.
"""

import ast
import re
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

from app.intake.parsing.typed import Wrong

MAX_CHARACTERS = 512
MAX_POWER = 4
LARGEST = 2**63 - 1

FUNCTIONS = {
    **dict.fromkeys(("Add", "Mul", "Max", "Min", "And", "Or"), (1, 32)),
    **dict.fromkeys(("FloorDiv", "CleanDiv", "Mod", "PythonMod"), (2, 2)),
    **dict.fromkeys(("Equality", "Unequality", "Eq", "Ne"), (2, 2)),
    **dict.fromkeys(("LessThan", "GreaterThan", "StrictLessThan", "StrictGreaterThan", "Le", "Ge", "Lt", "Gt"), (2, 2)),
    "Not": (1, 1),
}
"""Function -> minimum and maximum number of arguments."""
ASSUMPTIONS = ("positive", "integer", "nonnegative", "nonzero", "negative")
_NAME = re.compile(r"[a-z]{1,8}[0-9]{0,9}")
_DERIVED = re.compile(r"[A-Za-z0-9_ ()*+/,-]{1,256}")


def expression(value: Any) -> str:
    """Return the expression, printed from its parsed tree. Raises Wrong."""
    if type(value) is not str or len(value) > MAX_CHARACTERS or not value.isascii():
        raise Wrong(f"must be an expression of at most {MAX_CHARACTERS} characters")
    try:
        tree = ast.parse(value, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise Wrong("is not an expression") from None
    return _print(tree)


Bounds = tuple[int | None, int | None]
UNBOUNDED: Bounds = (None, None)


def bounds_of(text: str, symbols: Mapping[str, Bounds]) -> Bounds:
    """Return the smallest and the largest value of a printed expression; None is unbounded.

    Sums and products of integers and symbols have bounds, by interval arithmetic; whatever else is unbounded.
    """
    return _bounds(ast.parse(text, mode="eval").body, symbols)


def _bounds(node: ast.expr, symbols: Mapping[str, Bounds]) -> Bounds:
    match node:
        case ast.Call(func=ast.Name(id="Integer"), args=arguments):
            return (_literal(arguments),) * 2
        case ast.Call(func=ast.Name(id="Symbol"), args=[ast.Constant(value=str(name))]):
            return symbols.get(name, UNBOUNDED)
        case ast.Call(func=ast.Name(id="Add"), args=arguments):
            lows, highs = zip(*(_bounds(argument, symbols) for argument in arguments), strict=True)
            return _total(lows), _total(highs)
        case ast.Call(func=ast.Name(id="Mul"), args=arguments):
            return reduce(_product, (_bounds(argument, symbols) for argument in arguments))
    return UNBOUNDED


def _total(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _product(first: Bounds, second: Bounds) -> Bounds:
    """Return the bounds of a product of what is not negative; any other product is unbounded."""
    (low, high), (other_low, other_high) = first, second
    if low is None or other_low is None or min(low, other_low) < 0:
        return UNBOUNDED
    return low * other_low, None if high is None or other_high is None else high * other_high


def range_name(value: Any) -> str:
    """Check what a range of sizes is about: a symbol, or sums and products such as `4*s39 + 1`. Raises Wrong."""
    if type(value) is not str or not _DERIVED.fullmatch(value):
        raise Wrong("must be a symbol's name, such as s77, or an expression of such")
    return str(value)


def is_symbol_name(name: str) -> bool:
    """Return whether it is a symbol's own name: `s77`, `u0`."""
    return _NAME.fullmatch(name) is not None


def _print(node: ast.expr) -> str:
    if isinstance(node, ast.Constant) and node.value in (True, False) and type(node.value) is bool:
        return str(node.value)
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        raise Wrong("has something other than calls of known functions")
    name = node.func.id
    if name == "Symbol":
        return _print_symbol(node)
    if node.keywords:
        raise Wrong(f"{name[:32]} takes no keywords")
    if name == "Integer":
        return f"Integer({_literal(node.args)})"
    if name == "Pow":
        return _print_power(node.args)
    fewest, most = FUNCTIONS.get(name, (1, 0))
    if not fewest <= len(node.args) <= most:
        raise Wrong("calls a function that is not accepted, or with a wrong number of arguments")
    return f"{name}({', '.join(map(_print, node.args))})"


def _print_symbol(node: ast.Call) -> str:
    match node.args:
        case [ast.Constant(value=str(name))] if _NAME.fullmatch(name):
            pass
        case _:
            raise Wrong("has a symbol whose name is not accepted")
    keywords = [(keyword.arg, keyword.value) for keyword in node.keywords]
    if not all(key in ASSUMPTIONS and isinstance(v, ast.Constant) and type(v.value) is bool for key, v in keywords):
        raise Wrong("has a symbol with assumptions that are not accepted")
    return f"Symbol({', '.join([repr(name), *(f'{k.arg}={ast.unparse(k.value)}' for k in node.keywords)])})"


def _print_power(arguments: list[ast.expr]) -> str:
    """Print a small power of a symbol (a square of a size); a power of a number could be too large to compute."""
    match arguments:
        case [ast.Call(func=ast.Name(id="Symbol")) as base, ast.Call(func=ast.Name(id="Integer"), args=exponent)]:
            power = _literal(exponent)
            if 2 <= power <= MAX_POWER:
                return f"Pow({_print_symbol(base)}, Integer({power}))"
    raise Wrong(f"has a power that is not a symbol to the power of 2..{MAX_POWER}")


def _literal(arguments: list[ast.expr]) -> int:
    match arguments:
        case [ast.Constant(value=int(number))] if type(number) is int and number <= LARGEST:
            return number
        case [ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int(number)))] if number <= LARGEST:
            return -number
    raise Wrong("has an integer that is not a number of at most 63 bits")
