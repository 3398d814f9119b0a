"""The releases of torch whose programs are known, and what is said of a program of another one."""

import re
from typing import Any

from app.intake.facts import Warning
from app.intake.parsing.typed import Wrong

WRITTEN = "2.13.0"
"""The release whose file is written, and which loads it."""
KNOWN = range(6, 16)
"""Minor versions of torch 2 of which files were read, loaded and run (tests/app/intake/program/test_releases.py)."""
KNOWN_WORDS = f"2.{KNOWN[0]} to 2.{KNOWN[-1]}"

_RELEASE = re.compile(r"([0-9]{1,3})[.]([0-9]{1,3})[0-9a-z.+]{0,48}")


def release_written(value: Any) -> str:
    """Return the release that is written in place of the one that exported a program. Raises Wrong."""
    if type(value) is not str or not _RELEASE.fullmatch(value):
        raise Wrong("must be a version of torch")
    return str(value) if value.startswith("2.13.") else WRITTEN


def unknown_release(document: Any) -> str | None:
    """Return "3.1" of a parsed program that such a release exported, None when the release is known."""
    value = document.get("torch_version") if isinstance(document, dict) else None
    match = _RELEASE.fullmatch(value) if isinstance(value, str) else None
    if match is None or (match[1] == "2" and int(match[2]) in KNOWN):
        return None
    return f"{match[1]}.{match[2]}"


def warning_of(release: str) -> Warning:
    """Return what the owner of a program of an unknown release should know."""
    return Warning(
        "torch_release",
        f"torch {release} exported the program, and the known releases are {KNOWN_WORDS}. It was read by their rules, "
        "and everything in it has a meaning there.",
        f"Compare the job's artifacts with your own outputs, or export with torch {KNOWN_WORDS}.",
        (),
    )
