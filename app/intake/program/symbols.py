"""Symbolic sizes: parsed, never evaluated, and printed from the parsed tree.

torch writes a size as sympy's own text, `Mul(Integer(2), Symbol('s77', positive=True, integer=True))`, and evaluates it
as Python when it loads. Here it is parsed into a tree of known calls on integers and symbols.
"""

import ast
import re
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
_NAME = re.compile(r"[a-z]{1,8}\d{0,9}")


def expression(value: Any) -> str:
    """Return the expression, printed from its parsed tree. Raises Wrong."""
    if type(value) is not str or len(value) > MAX_CHARACTERS or not value.isascii():
        raise Wrong(f"must be an expression of at most {MAX_CHARACTERS} characters")
    try:
        tree = ast.parse(value, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise Wrong("is not an expression") from None
    return _print(tree)


def symbol_of(text: str) -> str | None:
    """Return the name of an expression that is a single symbol; None for any other."""
    match = re.fullmatch(r"Symbol\('([a-z]{1,8}\d{0,9})'[^()]*\)", text)
    return match[1] if match else None


def symbol_name(value: Any) -> str:
    """Check a symbol's name: `s77`, `u0`. Raises Wrong."""
    if type(value) is not str or not _NAME.fullmatch(value):
        raise Wrong("must be a symbol's name, such as s77")
    return value


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
