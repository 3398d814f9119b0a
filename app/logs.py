"""Log lines: one JSON object each, or text for people on a terminal, with the ids of what is being worked on.

`about` binds ids (request_id, job_id, owner, …) to every line that is logged meanwhile, also in other threads that work
for the same request. Fields of one line alone are passed as `extra=fields(…)`.
"""

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

Format = Literal["auto", "text", "json"]
MOST_CHARACTERS = 16_384
"""Of a message or a traceback; what is longer is cut in the middle."""

_about: ContextVar[dict[str, Any]] = ContextVar("about")


@contextmanager
def about(**ids: Any) -> Iterator[None]:
    """Bind ids to every line of this context; `also` adds those that are known later."""
    token = _about.set({**_about.get({}), **ids})
    try:
        yield
    finally:
        _about.reset(token)


def also(**ids: Any) -> None:
    """Bind further ids until the innermost `about` ends."""
    _about.get({}).update(ids)


def bound(name: str) -> Any:
    """Return an id that is bound here; None if it is not."""
    return _about.get({}).get(name)


def fields(**values: Any) -> Mapping[str, Any]:
    """Return what `extra` of a log call takes, to add fields to one line."""
    return {"fields": values}


def configure(level: str, form: Format = "auto", stream: TextIO = sys.stderr) -> None:
    """Write the lines of every logger of this process to a stream."""
    handler = logging.StreamHandler(stream)
    text = form == "text" or (form == "auto" and stream.isatty())
    handler.setFormatter(TextLines() if text else JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)


class JsonLines(logging.Formatter):
    """One JSON object a line: time (RFC 3339, UTC), level, logger, message, ids, fields, and error if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
            "message": _cut(record.getMessage()),
            **_ids(record),
        }
        if record.exc_info:
            line["error"] = _cut(self.formatException(record.exc_info))
        return json.dumps(line, default=str, ensure_ascii=False)


class TextLines(logging.Formatter):
    """The same for people: `2026-11-30T16:00:00.123Z INFO app.api request  status=200 request_id=req_…`."""

    def format(self, record: logging.LogRecord) -> str:
        ids = " ".join(f"{name}={_word(value)}" for name, value in _ids(record).items())
        line = f"{_time(record)} {record.levelname} {record.name} {_escaped(_cut(record.getMessage()))}  {ids}".rstrip()
        return f"{line}\n{_cut(self.formatException(record.exc_info))}" if record.exc_info else line


def _ids(record: logging.LogRecord) -> dict[str, Any]:
    ids = {**_about.get({}), **getattr(record, "fields", {})}
    return {name: value for name, value in ids.items() if value not in (None, "")}


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _word(value: object) -> str:
    text = str(value)
    return text if text.isprintable() and " " not in text else json.dumps(text)


def _escaped(text: str) -> str:
    """Return text in which nothing begins a line that would look like another record's, or moves the cursor."""
    return "".join(c if c.isprintable() or c in "\t" else c.encode("unicode_escape").decode() for c in text)


def _cut(text: str) -> str:
    half, left_out = MOST_CHARACTERS // 2, len(text) - MOST_CHARACTERS
    return text if left_out <= 0 else f"{text[:half]}\n… {left_out} characters …\n{text[-half:]}"
