"""Where an import comes from, as its client names it."""

import re
from dataclasses import dataclass
from typing import Literal

import httpx

from app.imports.rules import ImportRules, invalid, refusals
from app.outbound import check_url

MOST_CHARACTERS = 2048

_HUB = re.compile(
    r"hf://((?:[A-Za-z0-9][A-Za-z0-9._-]{0,95}/)?[A-Za-z0-9][A-Za-z0-9._-]{0,95})(?:@([A-Za-z0-9._/-]{1,128}))?"
)
_S3 = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/([!-~]{1,1024})")


@dataclass(frozen=True)
class Source:
    """A source whose form is right: an address, an object of a bucket, or a repository of a hub at a revision.

    `place` is the address, the bucket or the repository; `item` the object's key or the revision.
    """

    kind: Literal["http", "s3", "hub"]
    place: str
    item: str = ""

    @property
    def filename(self) -> str:
        """Return what the file is called there."""
        path = httpx.URL(self.place).path if self.kind == "http" else self.item if self.kind == "s3" else self.place
        shown = re.sub(r"[^A-Za-z0-9._+ -]", "_", path.rstrip("/").rpartition("/")[2])[:255]
        return shown or "unnamed"


def source_of(text: str, rules: ImportRules) -> Source:
    """Return the source that a text names, if the operator allows it. Raises Invalid."""
    rules.check_on()
    if len(text) > MOST_CHARACTERS:
        raise invalid(f"The source has more than {MOST_CHARACTERS} characters.")
    if match := _HUB.fullmatch(text):
        if ".." in text:
            raise invalid("A revision or name with .. is none of a hub.")
        rules.check_host(httpx.URL(rules.hub_endpoint))
        return Source("hub", match[1], match[2] or "main")
    if match := _S3.fullmatch(text):
        rules.check_bucket(match[1])
        return Source("s3", match[1], match[2])
    if not text.lower().startswith(("https://", "http://")):
        raise invalid("The source is no address that the service can fetch.")
    with refusals(rules):
        rules.check_host(check_url(text, rules.calls(0)))
    return Source("http", text)
