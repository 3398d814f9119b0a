"""Codes are a promise: each is documented, and each is raised somewhere."""

import re

from app.api.errors import STATUSES
from app.errors import TITLES, Fault, Invalid, Later, ServiceError
from tests.servers import ROOT

PAGE = ROOT / "docs" / "reference" / "errors.md"


def documented() -> dict[str, int]:
    rows = re.findall(r"^\| `(\w+)` \| (\d{3}) \|", PAGE.read_text(), re.MULTILINE)
    return {code: int(status) for code, status in rows}


def raised() -> str:
    files = [path for path in (ROOT / "app").rglob("*.py") if path.name != "errors.py" or path.parent.name == "api"]
    files += (ROOT / "zeropoint" / "sources").rglob("*.py")  # asked at upload, of a Hugging Face folder
    return "".join(path.read_text() for path in files)


def test_every_code_is_documented() -> None:
    assert sorted(documented()) == sorted(TITLES)


def test_every_code_is_raised() -> None:
    source = raised()
    assert [code for code in TITLES if f'"{code}"' not in source] == []


def test_documented_statuses_are_the_ones_of_the_kinds() -> None:
    """A code that is written as Kind("code", …) has the status of its kind."""
    kinds = {kind.__name__: int(status) for kind, status in STATUSES.items()}
    written = re.findall(rf"\b({'|'.join(kinds)})\(\s*\"(\w+)\"", raised())
    assert {code: documented()[code] for _, code in written} == {code: kinds[kind] for kind, code in written}


def test_every_kind_has_a_status() -> None:
    kinds = set(ServiceError.__subclasses__()) | set(Later.__subclasses__())
    assert set(STATUSES) == kinds - {Later}


def test_an_error_says_what_and_what_to_do() -> None:
    error = Invalid("request_invalid", "This is wrong.", "Do that.", [Fault("/x", "is wrong")])
    assert str(error) == "This is wrong. Do that."
    assert error.title == TITLES["request_invalid"]
