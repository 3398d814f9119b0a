"""Stored files as responses, read in places of their own: a slow storage holds up nothing but downloads."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Literal
from urllib.parse import quote

from fastapi import Response
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from app.api.admission import Places
from app.api.disconnects import ended_with_client
from app.storage import Blob, Download, Storage

CHUNK_BYTES = 2**16
"""Each download holds one."""
SIGNED_SECONDS = 300
"""How long an address of the storage may be used to begin a download."""


@dataclass(frozen=True)
class Stored:
    """A blob, where it is, and the places for reading it."""

    blob: Blob
    storage: Storage
    places: Places


class StoredFile(Response):
    """A blob or a part of it; refused with 503 before its first byte where the storage is too busy, or away."""

    def __init__(
        self,
        stored: Stored,
        headers: Mapping[str, str],
        *,
        part: range | None = None,
        media_type: str,
        filename: str | None = None,
    ) -> None:
        size = stored.blob.bytes
        sent = {**headers, "Accept-Ranges": "bytes", "Content-Length": str(size if part is None else len(part))}
        if filename is not None:
            sent["Content-Disposition"] = disposition_of(filename)
        if part is not None:
            sent["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{size}"
        super().__init__(None, 200 if part is None else 206, sent, media_type)
        self.stored = stored
        self._part = range(size) if part is None else part

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the status with the first bytes: until then the answer may still be a refusal."""
        start = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        if scope["method"] == "HEAD":
            await send(start)
            await send({"type": "http.response.body", "body": b""})
            return
        with suppress(ClientDisconnect):  # what nobody reads any more is not fetched
            async with ended_with_client(receive):
                await self._send_file(start, send)

    async def _send_file(self, start: Message, send: Send) -> None:
        places, part = self.stored.places, self._part
        chunks = self.stored.storage.open(self.stored.blob.sha256, part.start, len(part), CHUNK_BYTES)
        try:
            chunk = await places.run(next, chunks, b"")
            await send(start)
            while chunk:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                chunk = await places.run(next, chunks, b"")
            await send({"type": "http.response.body", "body": b""})
        finally:
            await places.finish(chunks.close)


class SignedRedirect(Response):
    """A redirect to the storage itself, for a while; `otherwise` where the storage offers none."""

    def __init__(self, stored: Stored, download: Download, otherwise: Response) -> None:
        super().__init__(None, 307, {"Cache-Control": "private, no-store"})
        self.stored = stored
        self._download = download
        self._otherwise = otherwise

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Ask the storage in one of its places, not in one of the database's."""
        sign = partial(self.stored.storage.signed_address, self.stored.blob.sha256, SIGNED_SECONDS)
        address = await self.stored.places.run(sign, self._download)
        if address is None:
            await self._otherwise(scope, receive, send)
        else:
            self.headers["Location"] = address
            await super().__call__(scope, receive, send)


def download_of(method: str, media_type: str, filename: str) -> Download:
    """Return how the storage is to answer in place of this service."""
    name: Literal["GET", "HEAD"] = "HEAD" if method == "HEAD" else "GET"
    return Download(name, disposition_of(filename), media_type)


def disposition_of(filename: str) -> str:
    """Return the Content-Disposition of a file to be saved (RFC 6266)."""
    quoted = quote(filename)
    return f'attachment; filename="{filename}"' if quoted == filename else f"attachment; filename*=utf-8''{quoted}"
