"""Fetches an import into parts, in threads of its own: from then on it is an upload like any other."""

from collections.abc import Iterator
from functools import partial

from app import metrics
from app.api.dependencies import Services
from app.api.receiving import PIECE_BYTES
from app.imports import fetch, rules_of, source_of
from app.intake.confined import Stop, Stopped
from app.storage import BlobWriter
from app.uploads import checking, service
from app.uploads.checking import Claimed
from app.uploads.service import SALT_BYTES


async def fetch_parts(services: Services, claimed: Claimed, stop: Stop) -> Claimed:
    """Fetch what a claimed import names, and return the claim with its parts. Raises ServiceError, Stopped, OSError."""
    rules = rules_of(services.settings)
    source = source_of(claimed.source or "", rules)  # what the operator allows may have changed since
    admission, size = services.admission, 0
    async with admission.imports.taken():
        await admission.writing.run(_begin, services, claimed)
        chunks = fetch(source, rules, claimed.caller.project)
        try:
            while writer := await admission.imports.finish(partial(_next_piece, services, chunks, stop)):
                size += await admission.writing.run(_commit, services, claimed, size, writer)
        finally:
            await admission.imports.finish(partial(_close, chunks))
    return await admission.writing.run(_end, services, claimed, size)


def _next_piece(services: Services, chunks: Iterator[bytes], stop: Stop) -> BlobWriter | None:
    """Return a blob with the next PIECE_BYTES, or what is left; None at the end."""
    writer = services.storage.writer()
    try:
        writer.write(service.salt())
        for chunk in chunks:
            if stop.stopped:
                raise Stopped
            writer.write(chunk)
            metrics.UPLOAD_BYTES.inc(len(chunk))
            if writer.size >= PIECE_BYTES:
                break
    except BaseException:
        writer.abort()
        raise
    if writer.size > SALT_BYTES:
        return writer
    writer.abort()
    return None


def _begin(services: Services, claimed: Claimed) -> None:
    with services.sessions() as session:
        if not checking.begin_fetching(session, services.storage, claimed):
            raise Stopped


def _commit(services: Services, claimed: Claimed, start: int, writer: BlobWriter) -> int:
    with writer, services.sessions() as session:
        blob = writer.commit()
        if checking.add_fetched(session, claimed, start, blob):
            return blob.bytes - SALT_BYTES
    service.delete_blobs(services.storage, [blob.sha256])
    raise Stopped


def _end(services: Services, claimed: Claimed, size: int) -> Claimed:
    with services.sessions() as session:
        fetched = checking.end_fetching(session, claimed, size, services.upload_lives)
    if fetched is None:
        raise Stopped
    return fetched


def _close(chunks: Iterator[bytes]) -> None:
    """End the connection that a generator holds."""
    if close := getattr(chunks, "close", None):
        close()
