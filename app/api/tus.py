"""What tus 1.0 asks of headers (https://tus.io/protocols/resumable-upload): version, metadata, checksums.

The middleware is all that every answer under /v1/uploads has; the endpoints are in `resumable_uploads`.
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Literal

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.addresses import path_of
from app.api.dependencies import Services
from app.api.requests import SEEN_PATTERN
from app.errors import Damaged, Malformed, WrongVersion
from app.uploads.service import NewUpload, Purpose

VERSION: Literal["1.0.0"] = "1.0.0"
EXTENSIONS = "creation,creation-with-upload,checksum,expiration,termination"
CONTENT_TYPE = "application/offset+octet-stream"
MOST_METADATA = 8192

HASHES: dict[str, Callable[[], "hashlib._Hash"]] = {"sha1": hashlib.sha1, "sha256": hashlib.sha256}
"""sha1 is what the protocol demands and clients send: it finds damage, and proves nothing about who sent it."""
PURPOSES: dict[str, Purpose] = {"model": "model", "dataset": "dataset"}

_HERE = re.compile(r"/v1/uploads(/[^/]*)?")
_SEEN = re.compile(SEEN_PATTERN)


class Tus:
    """The middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _HERE.fullmatch(path_of(scope)):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        method = scope["method"]
        if method == "POST":  # for clients behind what lets only GET and POST through
            method = headers.get("X-HTTP-Method-Override", method).upper()
            scope = {**scope, "method": method}
        own = {"Tus-Resumable": VERSION, "Cache-Control": "no-store"}
        if method == "OPTIONS":
            own |= _offers(scope)

        async def send_with_own(message: Message) -> None:
            if message["type"] == "http.response.start":
                if message["status"] == HTTPStatus.PRECONDITION_FAILED:
                    own["Tus-Version"] = VERSION
                MutableHeaders(scope=message).update(own)
            await send(message)

        await self._app(scope, receive, send_with_own)


def _offers(scope: Scope) -> dict[str, str]:
    services: Services = scope["app"].state.services
    return {
        "Tus-Version": VERSION,
        "Tus-Extension": EXTENSIONS,
        "Tus-Max-Size": str(services.settings.max_upload_bytes),
        "Tus-Checksum-Algorithm": ",".join(HASHES),
    }


def check_version(headers: Headers, method: str) -> None:
    """Raise WrongVersion for another version; without one, for what only clients of tus send."""
    version = headers.get("Tus-Resumable", None if method in ("POST", "PATCH") else VERSION)
    if version == VERSION:
        return
    said = "lacks the header Tus-Resumable" if version is None else f"asks for tus {version[:16]!r}"
    raise WrongVersion(
        "tus_version_unsupported", f"The request {said}.", f"Send Tus-Resumable: {VERSION}, as clients of tus 1.0 do."
    )


def new_upload(metadata: str, size: int) -> NewUpload:
    """Return what Upload-Metadata says of an upload. Raises Malformed."""
    if len(metadata) > MOST_METADATA:
        raise _metadata(f"has more than {MOST_METADATA} characters")
    texts: dict[str, str] = {}
    for pair in filter(None, (part.strip() for part in metadata.split(","))):
        key, _, encoded = pair.partition(" ")
        if key in texts:
            raise _metadata(f"has the key {key[:64]!r} more than once")
        texts[key] = _text(key, encoded)
    purpose = PURPOSES.get(texts.get("purpose", texts.get("kind", "")))
    if purpose is None:
        raise _metadata("does not say in purpose whether this is a model or a dataset")
    filename = texts.get("filename") or "unnamed"
    return NewUpload(purpose, texts.get("name") or filename, filename, size, metadata)


def _text(key: str, encoded: str) -> str:
    try:
        text = base64.b64decode(encoded, validate=True).decode()
    except (binascii.Error, ValueError):
        raise _metadata(f"has a value of {key[:64]!r} that is not UTF-8 text in Base64") from None
    if key in ("name", "filename") and (len(text) > 255 or not _SEEN.fullmatch(text)):
        raise _metadata(f"has a {key} of more than 255 characters, or with characters that nobody sees")
    return text


@dataclass(frozen=True)
class Checksum:
    """What Upload-Checksum announces of a part."""

    algorithm: str
    digest: bytes

    @classmethod
    def of(cls, header: str | None) -> "Checksum | None":
        """Return what the header announces; None without it. Raises Malformed."""
        if header is None:
            return None
        algorithm, _, encoded = header.strip().partition(" ")
        try:
            digest = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            digest = b""
        if algorithm not in HASHES or len(digest) != HASHES[algorithm]().digest_size:
            raise Malformed(
                "checksum_unsupported",
                "Upload-Checksum is not the name of an algorithm and a digest of its length in Base64.",
                f"Write one of {', '.join(HASHES)}, a space and the digest; or leave the header out.",
            )
        return cls(algorithm, digest)

    def hasher(self) -> "hashlib._Hash":
        """Return what to feed with the part."""
        return HASHES[self.algorithm]()

    def check(self, got: bytes) -> None:
        """Raise Damaged unless the part has this digest."""
        if not hmac.compare_digest(self.digest, got):
            raise Damaged(
                "checksum_mismatch",
                f"The {self.algorithm} of the part is not the one in Upload-Checksum: nothing of it was kept.",
                "Send the part again, from the same offset.",
            )


def _metadata(what: str) -> Malformed:
    return Malformed(
        "upload_metadata_invalid",
        f"Upload-Metadata {what}.",
        'Send "purpose bW9kZWw=" (model) or "purpose ZGF0YXNldA==" (dataset), and name and filename if you like: keys, '
        "each with its value in Base64, with commas between.",
    )
