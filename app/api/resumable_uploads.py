"""/v1/uploads: models and datasets that come in parts, by tus 1.0."""

import asyncio
from email.utils import format_datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request, Response

from app.api.addresses import address
from app.api.answers import answer
from app.api.checks import Checks
from app.api.dependencies import PathName, Services, ServicesDep, SessionDep
from app.api.disconnects import ended_with_client
from app.api.openapi import problems
from app.api.paging import BeforeDep, LimitQuery, next_cursor
from app.api.receiving import receive_part
from app.api.requests import NUMBER_PATTERN
from app.api.stopping import Stopping
from app.api.tus import CONTENT_TYPE, Checksum, check_version, new_upload
from app.api.upload_bodies import UploadBody, UploadPage
from app.api.uploads import check_quota, refusing_without_room, upload_too_large
from app.errors import Malformed, WrongType
from app.uploads import service
from app.uploads.service import UploadRow
from app.uploads.status import UploadState

WAIT_SECONDS = 30.0
"""How long the request with the last byte waits for the check; afterwards the upload is there to be read."""


LengthHeader = Annotated[
    str,
    Header(alias="Upload-Length", pattern=NUMBER_PATTERN, description="How many bytes the whole file has."),
]
MetadataHeader = Annotated[
    str,
    Header(
        alias="Upload-Metadata",
        description="purpose (model or dataset), name, filename: keys, each with its value in Base64, with commas.",
    ),
]
OffsetHeader = Annotated[
    str,
    Header(alias="Upload-Offset", pattern=NUMBER_PATTERN, description="Where in the file the part begins."),
]
ChecksumHeader = Annotated[
    str | None,
    Header(alias="Upload-Checksum", description="sha1 or sha256, a space, and the part's digest in Base64."),
]


async def _check_version(request: Request) -> None:
    check_version(request.headers, request.method)


async def _describe_version(
    _version: Annotated[str, Header(alias="Tus-Resumable", pattern=r"^1\.0\.0$", description="The version of tus.")],
) -> None:
    """Put the header into the contract; all other versions are refused before."""


router = APIRouter(prefix="/v1/uploads", tags=["uploads"], dependencies=[Depends(_check_version)])
TUS = [Depends(_describe_version)]


@router.post(
    "",
    response_model=UploadBody,
    status_code=201,
    dependencies=TUS,
    responses=problems(400, 412, 413, 415, 422, 503, 507),
)
async def begin_upload(
    *,
    request: Request,
    services: ServicesDep,
    upload_length: LengthHeader,
    upload_metadata: MetadataHeader = "",
    upload_checksum: ChecksumHeader = None,
) -> Response:
    """Begin an upload in parts (tus 1.0). A body, as application/offset+octet-stream, is its first part."""
    size = int(upload_length)
    if size == 0:
        raise Malformed("upload_empty", "Upload-Length is 0.", "Send a file of a model or dataset.")
    if size > services.settings.max_upload_bytes:
        raise upload_too_large(services.settings.max_upload_bytes)
    new, checksum = new_upload(upload_metadata, size), Checksum.of(upload_checksum)
    has_body = request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers
    if has_body:
        _check_type(request)
    await services.admission.reading.run(check_quota, services, request.state.quotas, size)
    with refusing_without_room():
        await services.admission.files.run(_expect, services, size)
    row = await services.admission.writing.run(_create, services, new)
    if has_body:
        row = await _receive(request, services, row, checksum)
    body = UploadBody.of(row)
    return answer(body, 201, Location=address(f"/v1/uploads/{row.id}"), **_headers(row))


@router.get("", responses=problems(422))
def list_uploads(session: SessionDep, before: BeforeDep, limit: LimitQuery = 20) -> UploadPage:
    """List uploads in parts, and imports, newest first; those that ended are here for seven days."""
    rows = service.page(session, before, limit)
    return UploadPage(items=[UploadBody.of(row) for row in rows], next_cursor=next_cursor(rows, limit))


@router.get("/{upload_id}", response_model=UploadBody, responses=problems(404))
def read_upload(session: SessionDep, upload_id: PathName) -> Response:
    """Read an upload: how much is here, what it became, or why it was refused."""
    row = service.read(session, upload_id)
    return answer(UploadBody.of(row), 200, **_headers(row))


@router.head("/{upload_id}", include_in_schema=False)
def read_offset(session: SessionDep, upload_id: PathName) -> Response:
    """Read where the next part of an upload begins (Upload-Offset); 410 where it expired or was refused."""
    row = service.read_to_resume(session, upload_id)
    described = {"Upload-Metadata": row.sent_metadata} if row.sent_metadata else {}
    return Response(status_code=200, headers={**_headers(row), **described})


@router.patch(
    "/{upload_id}",
    status_code=204,
    dependencies=TUS,
    responses=problems(400, 404, 409, 410, 412, 413, 415, 422, 503, 507),
)
async def send_part(
    *,
    request: Request,
    services: ServicesDep,
    upload_id: PathName,
    upload_offset: OffsetHeader,
    upload_checksum: ChecksumHeader = None,
) -> Response:
    """Send the part that begins at Upload-Offset, as application/offset+octet-stream.

    The last one is answered when the file was checked: with `Upload-Result`, the address of the model or dataset, or
    with the refusal. Sent again without a body, at the end, it asks for that answer again.
    """
    start = int(upload_offset)
    row = await services.admission.reading.run(_read_for_part, services, upload_id, start)
    _check_type(request)
    checksum = Checksum.of(upload_checksum)
    if row.state not in (UploadState.RECEIVING, UploadState.FETCHING) and start == row.bytes:
        row = await services.admission.writing.run(_ask_again, services, upload_id)
    elif row.received_bytes != start or row.source is not None:
        raise service.wrong_offset(row.received_bytes, start)
    row = await _receive(request, services, row, checksum)
    return Response(status_code=204, headers=_headers(row))


@router.delete("/{upload_id}", status_code=204, responses=problems(404))
def end_upload(session: SessionDep, services: ServicesDep, upload_id: PathName) -> Response:
    """End an upload and delete its bytes; a model or dataset that it became stays."""
    service.delete(session, services.storage, upload_id)
    return Response(status_code=204)


async def _receive(request: Request, services: Services, row: UploadRow, checksum: Checksum | None) -> UploadRow:
    """Receive the part in a request; after the last one, wait for the check. Raises ServiceError."""
    with refusing_without_room(), services.rates.upload(row.project, request.state.quotas):
        await receive_part(request, services, row, checksum)
    row = await services.admission.reading.run(_read, services, row.id)
    if row.state == UploadState.CHECKING:
        stopping: Stopping = request.app.state.stopping
        checks: Checks = request.app.state.checks
        task = checks.start(services, row.id)
        async with ended_with_client(request.receive):
            with stopping.wait(WAIT_SECONDS):
                await asyncio.shield(task)
        row = await services.admission.reading.run(_read, services, row.id)
    if refusal := service.outcome(row):
        raise refusal
    return row


def _headers(row: UploadRow) -> dict[str, str]:
    """Return what tus says of an upload, and the address of what it became."""
    headers = {"Upload-Offset": str(row.received_bytes)}
    if row.bytes is not None:
        headers["Upload-Length"] = str(row.bytes)
    if row.state == UploadState.RECEIVING:
        headers["Upload-Expires"] = format_datetime(row.expires_at.replace(microsecond=0), usegmt=True)
    if result := UploadBody.of(row).result:
        headers["Upload-Result"] = result
    return headers


def _check_type(request: Request) -> None:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != CONTENT_TYPE:
        raise WrongType(
            "content_type_unsupported",
            f"The part is not sent as {CONTENT_TYPE}.",
            f"Send Content-Type: {CONTENT_TYPE}.",
        )


def _expect(services: Services, size: int) -> None:
    with services.storage.writer() as writer:
        writer.expect(size)


def _create(services: Services, new: service.NewUpload) -> UploadRow:
    with services.sessions() as session:
        return service.create(session, new, services.upload_lives)


def _read(services: Services, upload_id: str) -> UploadRow:
    with services.sessions() as session:
        return service.read(session, upload_id)


def _read_for_part(services: Services, upload_id: str, start: int) -> UploadRow:
    """Return an upload that may take a part, or whose end asks for its outcome. Raises NotFound, Gone."""
    with services.sessions() as session:
        row = service.read(session, upload_id)
        return row if start == row.bytes == row.received_bytes else service.read_to_resume(session, upload_id)


def _ask_again(services: Services, upload_id: str) -> UploadRow:
    with services.sessions() as session:
        return service.ask_again(session, upload_id)
