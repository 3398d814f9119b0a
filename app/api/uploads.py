"""Takes an upload, raw or as a form, into storage while it is hashed; memory stays constant."""

import hashlib
import logging
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated

from fastapi import Query, Request

from app import metrics
from app.accounts.caller import project_of_caller
from app.accounts.quotas import Quotas
from app.api.admission import Places
from app.api.dependencies import Services
from app.api.digests import announced_sha256, check_digest
from app.api.disconnects import ended_with_client
from app.api.multipart import FormFile
from app.api.requests import SEEN_PATTERN, UNSEEN
from app.catalog.service import Catalog, Examined, Row, Upload
from app.errors import Invalid, Malformed, StorageFull, TooLarge, WrongType
from app.jobs.usage import check_bytes
from app.room import NO_ROOM
from app.storage import BlobWriter, Storage

log = logging.getLogger(__name__)

WRITE_BYTES = 2**18
FORM_OVERHEAD_BYTES = 64 * 2**10
FORM_TEXT = "application/x-www-form-urlencoded"
"""The type that curl -d gives a body, from which it removes line breaks (--data-binary does not)."""
LINE_BREAKS = re.compile(rb"[\r\n]")
SEARCHED_BYTES = 2**20

_UNSEEN = re.compile(rf"[{UNSEEN}\ud800-\udfff]")

NameQuery = Annotated[
    str | None,
    Query(min_length=1, max_length=255, pattern=SEEN_PATTERN, description="A name for people; any text."),
]

BODY = {
    "requestBody": {
        "required": True,
        "description": "The raw file (curl -X POST -T FILE), or one form field named file (curl -F file=@FILE).",
        "content": {
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary", "description": "The file."}},
                }
            },
        },
    }
}


async def take_upload(request: Request, services: Services, name: str | None, catalog: Catalog[Row]) -> Row:
    """Stream the body into storage, check it, and keep it.

    An upload that ends early, for whatever reason, leaves no file and no process. Raises ServiceError.
    """
    admission, project, quotas = services.admission, project_of_caller(), request.state.quotas
    most_bytes = services.settings.max_upload_bytes
    admission.gates.check()  # before the first byte of a file that nobody would check
    if quotas.bytes is not None:
        await admission.reading.run(check_quota, services, quotas, announced_length(request))
    with refusing_without_room(), services.rates.upload(project, quotas):
        async with (
            admission.bodies.taken_by(request.state.body),
            blob_writer(services.storage, admission.files) as received,
            blob_writer(services.storage, admission.files) as fresh,
        ):
            filename = _plain(await _receive(request, received, most_bytes, admission.files))
            upload = Upload(received, fresh, services.limits, filename)
            examine = _examine_text if _content_type(request) == FORM_TEXT else Catalog[Row].examine
            async with ended_with_client(request.receive, upload.stop.stop):
                examined = await admission.gates.run(examine, catalog, upload)
            return await admission.writing.run(_keep, services, catalog, examined, name or filename, quotas)


@contextmanager
def refusing_without_room() -> Iterator[None]:
    """Refuse with what to do where the block finds that a disk has no room. Raises StorageFull."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        log.warning("an upload found no room", exc_info=True)
        raise storage_full() from error


@asynccontextmanager
async def blob_writer(storage: Storage, files: Places) -> AsyncIterator[BlobWriter]:
    """Yield a new blob; what was not committed at the end of the block is discarded."""
    writer = await files.run(storage.writer)
    try:
        yield writer
    finally:
        await files.finish(writer.abort)


def _examine_text(catalog: Catalog[Row], upload: Upload) -> Examined:
    """Examine a body that was sent as the text of a form: whole, it is a file like any other.

    Raises Invalid; it says what curl does if the body has no line break, which a file of some size always has.
    """
    try:
        return catalog.examine(upload)
    except Invalid as refusal:
        with upload.received.path.open("rb") as file:
            if LINE_BREAKS.search(file.read(SEARCHED_BYTES)):
                raise
        raise Invalid(
            refusal.code,
            f"The body came as the text of a form and has no line breaks: curl -d removes them. {refusal.detail}",
            "Send the file as it is: curl -X POST -T FILE.",
            refusal.faults,
        ) from None


def check_quota(services: Services, quotas: Quotas, more: int) -> None:
    """Raise TooMany when the caller's project would store more bytes than it may."""
    with services.sessions() as session:
        check_bytes(session, quotas, more)


def _keep(services: Services, catalog: Catalog[Row], examined: Examined, name: str, quotas: Quotas) -> Row:
    with services.sessions() as session:
        check_bytes(session, quotas, examined.columns["stored_bytes"])
        return catalog.keep(session, examined, name)


async def _receive(request: Request, writer: BlobWriter, max_bytes: int, files: Places) -> str | None:
    """Write the file to storage; return the name that the client's form gave it."""
    form = _form_of(request)
    limit = max_bytes + (FORM_OVERHEAD_BYTES if form else 0)
    announced = announced_length(request)
    if announced > limit:
        raise upload_too_large(max_bytes)
    await files.run(writer.expect, announced)
    whole = announced_sha256(request.headers, "Content-Digest")
    file = announced_sha256(request.headers, "Repr-Digest")
    body_hash = hashlib.sha256()
    waiting = bytearray()
    received = 0
    async for chunk in request.stream():
        # Content-Digest covers the form as sent; without a form the writer hashes the same bytes.
        if form and whole:
            body_hash.update(chunk)
        received += len(chunk)
        metrics.UPLOAD_BYTES.inc(len(chunk))
        waiting += form.feed(chunk) if form else chunk
        if received > limit or writer.size + len(waiting) > max_bytes:
            raise upload_too_large(max_bytes)
        if len(waiting) >= WRITE_BYTES:
            await files.run(writer.write, bytes(waiting))
            waiting.clear()
    await files.run(writer.write, bytes(waiting))
    if form:
        form.finish()
    if writer.size == 0:
        raise Malformed("upload_empty", "The body has no bytes.", "Send the file: curl -X POST -T FILE, or curl -F.")
    check_digest("Content-Digest", whole, body_hash.hexdigest() if form else writer.sha256)
    check_digest("Repr-Digest", file, writer.sha256)
    return form.filename if form else None


def _form_of(request: Request) -> FormFile | None:
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise WrongType(
            "content_encoding_unsupported", "The body has a Content-Encoding.", "Send the file as it is on disk."
        )
    kind = _content_type(request)
    if kind == "multipart/form-data":
        return FormFile(request.headers["content-type"])
    if kind.startswith("multipart/"):
        raise WrongType(
            "content_type_unsupported",
            "The body is multipart, and not a form.",
            "Send the raw file, or multipart/form-data with one field named file.",
        )
    return None


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def announced_length(request: Request) -> int:
    """Return Content-Length; 0 when there is none, or when it is not a number of bytes."""
    length = request.headers.get("content-length", "")
    return int(length[:20]) if length.isascii() and length.isdigit() else 0


def upload_too_large(max_bytes: int) -> TooLarge:
    """Return the refusal of a file over the limit."""
    return TooLarge(
        "upload_too_large",
        f"The file has more than {max_bytes} bytes, the largest that is accepted here.",
        "Send fewer samples or a smaller model, or ask the operator to raise ZEROPOINT_MAX_UPLOAD_BYTES.",
    )


def storage_full() -> StorageFull:
    """Return the refusal of an upload for which the disk has no room."""
    return StorageFull(
        "storage_full",
        "The disk that keeps uploads has no room for this file.",
        "Ask the operator for room, or delete models and datasets that nobody needs: their room is free within a day.",
    )


def _plain(filename: str | None) -> str:
    """Return a client's file name as text for people; it is never used as a path."""
    return _UNSEEN.sub("", filename or "")[:255] or "unnamed"
