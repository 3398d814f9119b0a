"""Refusals as a column: what the gate said of an upload is read again, hours later and by another process."""

from collections.abc import Iterator
from typing import Any

from app.errors import Fault, ServiceError


def as_column(refusal: ServiceError) -> dict[str, Any]:
    """Return a refusal as JSON."""
    return {
        "kind": type(refusal).__name__,
        "code": refusal.code,
        "title": refusal.title,
        "detail": refusal.detail,
        "remedy": refusal.remedy,
        "errors": [{"pointer": fault.pointer, "detail": fault.detail} for fault in refusal.faults],
        "more_errors": refusal.more_faults or None,
        "retry_after": refusal.retry_after,
    }


def from_column(column: dict[str, Any]) -> ServiceError:
    """Return the refusal that was kept."""
    kind = {kind.__name__: kind for kind in _kinds(ServiceError)}[column["kind"]]
    faults = [Fault(fault["pointer"], fault["detail"]) for fault in column["errors"]]
    refusal = kind(column["code"], column["detail"], column["remedy"], faults)
    refusal.more_faults = column["more_errors"] or 0
    refusal.retry_after = column["retry_after"]
    return refusal


def _kinds(base: type[ServiceError]) -> Iterator[type[ServiceError]]:
    for kind in base.__subclasses__():
        yield kind
        yield from _kinds(kind)
