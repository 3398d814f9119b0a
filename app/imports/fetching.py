"""Fetches what a source names, as the bytes that a client would have uploaded."""

from collections.abc import Iterator

from app.imports import bucket, hub, web
from app.imports.rules import ImportRules
from app.imports.sources import Source


def fetch(source: Source, rules: ImportRules, project: str) -> Iterator[bytes]:
    """Yield the bytes of a source. Raises Invalid, TooLarge, Unavailable."""
    match source.kind:
        case "http":
            return web.stream(source.place, rules)
        case "hub":
            return hub.stream(source, rules, rules.hub_token(project))
        case "s3":
            return bucket.stream(source, rules)
