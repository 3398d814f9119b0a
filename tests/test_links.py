"""Every relative link of the documents leads to a file, and every anchor to a heading."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
MENTION = re.compile(r"\bdocs/[\w/.-]+\.md\b")
"""How comments and messages in the code refer to a page."""
ELSEWHERE = {"app/migrations", "zeropoint/observers/half.py", "zeropoint/algorithms/widening.py"}
"""Files in the wheel alone, and those that a reader is shown how to write."""


def _prose(page: Path) -> str:
    return FENCED.sub("", page.read_text())


def _anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    titles = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title) for title in HEADING.findall(_prose(page)))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_anchors_resolve(page: Path) -> None:
    broken = []
    for link in LINK.findall(_prose(page)):
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            broken.append(link)
    assert not broken


def test_every_page_is_reached_from_the_readme() -> None:
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page.suffix != ".md" or page in reached:
            continue
        reached.add(page)
        paths = (link.partition("#")[0] for link in LINK.findall(_prose(page)) if "://" not in link)
        waiting += [target for path in paths if (target := (page.parent / path).resolve()).is_file()]
    assert not set(PAGES) - reached


def _sources() -> Iterator[Path]:
    for folder in ("app", "worker", "sandbox", "zeropoint", "benchmarks", "scripts", "examples", "docker"):
        yield from (path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    yield from (ROOT / name for name in (".env.example", "Makefile", "docker-compose.yml", "pyproject.toml"))


def test_pages_that_code_and_messages_name_exist() -> None:
    named = {
        (str(path.relative_to(ROOT)), page)
        for path in _sources()
        if path.suffix not in {".pyc", ".so"}
        for page in MENTION.findall(path.read_text())
    }
    assert named
    assert not {(path, page) for path, page in named if not (ROOT / page).is_file()}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_exist(page: Path) -> None:
    named = set(re.findall(r"`((?:app|worker|sandbox|zeropoint|tests|docker|examples)/[\w/.-]*)`", page.read_text()))
    assert not {name for name in named - ELSEWHERE if not (ROOT / name).exists()}
