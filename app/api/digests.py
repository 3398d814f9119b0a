"""Content-Digest and Repr-Digest (RFC 9530), sha-256 only."""

import base64
import binascii
import re

from starlette.datastructures import Headers

from app.errors import Invalid, Malformed

_SHA256 = re.compile(r"(?:^|,)\s*sha-256\s*=\s*:([A-Za-z0-9+/=]{1,64}):\s*(?=,|;|$)", re.IGNORECASE)


def announced_sha256(headers: Headers, field: str) -> str | None:
    """Return the hex sha256 that a header announces; None without the header. Raises Malformed."""
    value = headers.get(field)
    if value is None:
        return None
    match = _SHA256.search(value)
    try:
        digest = base64.b64decode(match[1], validate=True) if match else b""
    except binascii.Error:
        digest = b""
    if len(digest) != 32:
        raise Malformed(
            "digest_unsupported",
            f"{field} holds no sha-256 of 32 bytes.",
            f"Write {field}: sha-256=:<base64 of the 32 bytes>:, or leave it out.",
        )
    return digest.hex()


def check_digest(field: str, announced: str | None, got: str) -> None:
    """Raise Invalid when the bytes are not the announced ones."""
    if announced is not None and announced != got:
        raise Invalid(
            "digest_mismatch",
            f"{field} announces sha256 {announced}, the bytes have {got}.",
            "Upload again; if it stays so, the file differs from the one that was hashed.",
        )


def repr_digest(sha256: str) -> str:
    """Return the value of a Repr-Digest header."""
    return f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:"
