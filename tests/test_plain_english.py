"""Plain English: phrases that must be read twice stay out of the documents, docstrings and comments."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
PACKAGES = ("app", "worker", "sandbox", "zeropoint")
"""Packages whose docstrings and comments hold the rules."""

BANNED = {
    "whether that went": "say what is returned",
    "what it comes to": "say what it is, or what it gains",
    "is told": "name who reports what",
    "are told": "name who reports what",
    "anew": "again",
    "whose turn": "the next one",
    "laid": "quantized, placed",
    "by their bargain": "in order of noise removed per multiply-accumulate",
    "carried to one": "ends in exactly one recorded state",
    "what carries jobs": "infrastructure",
    "put the lease off": "renew the lease",
    "leave none": "say what is stopped",
    "goes on from": "continues from",
    "go on from": "continue from",
    "made up for": "compensated",
    "make up for": "compensate for",
}
"""Phrase -> what to say. A phrase is matched as whole words, in any case."""

WIDTH = 120
FENCED = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)


def banned_in(text: str) -> list[str]:
    """Return the banned phrases of a text, each with what to say."""
    words = " ".join(re.sub(r"[#*>|]", " ", text).split()).lower()
    return [
        f"{phrase!r}: {better}" for phrase, better in BANNED.items() if re.search(rf"\b{re.escape(phrase)}\b", words)
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_is_in_plain_english(page: Path) -> None:
    assert not banned_in(page.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_wraps_its_text(page: Path) -> None:
    prose = FENCED.sub(lambda block: "\n" * block[0].count("\n"), page.read_text())
    numbered = enumerate(prose.splitlines(), start=1)
    long = {n: line for n, line in numbered if len(line) > WIDTH and not line.lstrip().startswith("|")}
    assert not long


def _modules(package: str) -> Iterator[Path]:
    yield from sorted((ROOT / package).rglob("*.py"))


def _comments(source: str) -> Iterator[str]:
    """Yield runs of comment lines as one text each, since a phrase may go over a line's end."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    yield " ".join(token.string for token in tokens if token.type == tokenize.COMMENT)


def _strings(tree: ast.Module) -> Iterator[str]:
    """Yield docstrings, and strings that stand as comments behind what they describe."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value


def complaints(path: Path) -> Iterator[str]:
    """Yield what is not plain English in the docstrings and comments of a module."""
    source = path.read_text()
    tree = ast.parse(source)
    for text in (*_comments(source), *_strings(tree)):
        yield from banned_in(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _begins_with_of(node):
            yield f"{node.name}: its docstring begins with Of; begin with a verb"


def _begins_with_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Return whether the docstring of a public function is a fragment."""
    return not function.name.startswith("_") and (ast.get_docstring(function) or "").startswith("Of ")


@pytest.mark.parametrize("package", PACKAGES)
def test_code_is_in_plain_english(package: str) -> None:
    found = {str(path.relative_to(ROOT)): list(complaints(path)) for path in _modules(package)}
    assert found
    assert not {path: words for path, words in found.items() if words}


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("Take a batch in; whether that\nwent.", 1),
        ("Numbers are LAID on a grid.", 1),
        ("Delayed, plaid, renewed: parts of words don't count.", 0),
        ("Every accepted job ends in exactly one recorded state.", 0),
    ],
)
def test_a_phrase_is_found_over_lines_and_as_whole_words(text: str, phrases: int) -> None:
    assert len(banned_in(text)) == phrases
