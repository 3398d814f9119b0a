"""Rules for values of JSON, and the words for a value that fails one.

Ranges cover what real networks use and a machine can build, so that no value makes a process allocate or loop for ever.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

MAX_LAYERS = 512
MAX_WIDTH = 2**18
MAX_VOCABULARY = 2**20
MAX_POSITIONS = 2**22
MAX_LABELS = 100_000


@dataclass(frozen=True)
class Rule:
    """A test for a value, and the words for a failed one ("must be ...")."""

    fits: Callable[[Any], bool]
    expected: str


def whole(low: int, high: int) -> Rule:
    """Return a rule for a whole number in a range."""
    return Rule(lambda value: type(value) is int and low <= value <= high, f"a whole number from {low} to {high}")


def number(low: float, high: float) -> Rule:
    """Return a rule for a finite number in a range."""
    return Rule(
        lambda value: type(value) in (int, float) and low <= value <= high and math.isfinite(value),
        f"a number from {low} to {high}",
    )


def word(*words: str) -> Rule:
    """Return a rule for one of these words."""
    return Rule(lambda value: type(value) is str and value in words, f"one of {', '.join(words)}")


def only(*values: object) -> Rule:
    """Return a rule for the values that leave the network as it is; any other would change it."""
    known = [(type(value), value) for value in values]
    return Rule(lambda value: (type(value), value) in known, f"{values[0]}: no other value is supported")


def many(rule: Rule, most: int) -> Rule:
    """Return a rule for a list of up to `most` values."""
    return Rule(
        lambda value: isinstance(value, list) and len(value) <= most and all(map(rule.fits, value)),
        f"a list of at most {most}, each {rule.expected}",
    )


def either(*rules: Rule) -> Rule:
    """Return a rule for a value that fits one of these rules."""
    return Rule(lambda value: any(rule.fits(value) for rule in rules), " or ".join(rule.expected for rule in rules))


def table(rules: Mapping[str, Rule]) -> Rule:
    """Return a rule for an object with only these keys."""
    return Rule(
        lambda value: isinstance(value, dict) and all(k in rules and rules[k].fits(v) for k, v in value.items()),
        f"an object of {', '.join(rules)}, each in its range",
    )


NONE = Rule(lambda value: value is None, "null")
FLAG = Rule(lambda value: type(value) is bool, "true or false")
