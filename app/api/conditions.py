"""Conditional requests (RFC 9110, section 13) for what never changes: artifacts, models, datasets."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime

from fastapi import Request, Response

from app import VERSION
from app.api.errors import precondition_failed

READING = ("GET", "HEAD")


@dataclass(frozen=True)
class Validators:
    """What tells one state of a resource from another: its strong ETag, and the time since when it has been so."""

    etag: str
    modified: datetime

    @property
    def last_modified(self) -> str:
        """Return the time as HTTP writes it."""
        return format_datetime(self.modified.astimezone(UTC).replace(microsecond=0), usegmt=True)

    @property
    def headers(self) -> dict[str, str]:
        """Return what an answer says of them."""
        return {"ETag": self.etag, "Last-Modified": self.last_modified}


def of_upload(upload_id: str, created_at: datetime) -> Validators:
    """Return the validators of a model or dataset: it never changes, but what is said of it may with the version."""
    return Validators(f'"{upload_id}-{VERSION}"', created_at)


def unmet(request: Request, validators: Validators, headers: Mapping[str, str] | None = None) -> Response | None:
    """Return the answer where a condition does not hold: 412, or 304 with `headers` for what the client has."""
    sent = request.headers
    if "if-match" in sent:
        if not _matches(sent["if-match"], validators.etag, weak=False):
            return precondition_failed(request, "The state is none of those that If-Match names.")
    elif _is_before(sent.get("if-unmodified-since"), validators.modified):
        return precondition_failed(request, "It was made after the time of If-Unmodified-Since.")
    if "if-none-match" in sent:
        known = _matches(sent["if-none-match"], validators.etag, weak=True)
        if known and request.method not in READING:
            return precondition_failed(request, "The state is one of those that If-None-Match names.")
    else:
        since = _time(sent.get("if-modified-since")) if request.method in READING else None
        known = since is not None and validators.modified.replace(microsecond=0) <= since
    return Response(status_code=304, headers={**validators.headers, **(headers or {})}) if known else None


def _matches(listed: str, etag: str, *, weak: bool) -> bool:
    tags = [tag.strip() for tag in listed.split(",")]
    if weak:
        tags = [tag.removeprefix("W/") for tag in tags]
    return etag in tags or tags == ["*"]


def _is_before(header: str | None, modified: datetime) -> bool:
    since = _time(header)
    return since is not None and since < modified.replace(microsecond=0)


def _time(header: str | None) -> datetime | None:
    """Return the time of a header; None without one, or when it can't be read: a server then ignores it."""
    try:
        moment = parsedate_to_datetime(header or "")
    except (ValueError, OverflowError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
