"""/v1/jobs/{id}/report and /v1/jobs/{id}/artifacts: results, streamed from storage."""

import re
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse

from app.api.addresses import address
from app.api.conditions import Validators, unmet
from app.api.dependencies import PathName, Services, ServicesDep, SessionDep
from app.api.digests import repr_digest
from app.api.errors import unsatisfiable_range
from app.api.files import SignedRedirect, Stored, StoredFile, download_of
from app.api.openapi import UNCHANGED, problems
from app.api.paging import BeforeDep, LimitQuery, next_cursor
from app.api.requests import WORD_PATTERN
from app.api.schemas import ArtifactBody, ArtifactPage
from app.jobs import queries
from app.storage import Blob
from zeropoint.schema.report import Report

_RANGE = re.compile(r"\s*bytes\s*=\s*(\d{0,18})\s*-\s*(\d{0,18})\s*", re.IGNORECASE)
MEDIA_TYPE = "application/octet-stream"
_FILE: dict[str, Any] = {"content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}}
_ELSEWHERE = {
    "description": "With redirect=true, where the storage serves files itself: its address, for some minutes.",
    "headers": {"Location": {"description": "Where the file is.", "schema": {"type": "string"}}},
}

RedirectQuery = Annotated[
    bool, Query(description="Answer with a redirect to the storage itself, where it serves files; else with the file.")
]
JobQuery = Annotated[str, Query(max_length=64, pattern=WORD_PATTERN, description="The id of the job or sweep.")]

router = APIRouter(prefix="/v1", tags=["artifacts"])


@router.get("/jobs/{job_id}/report", response_model=Report, responses={**UNCHANGED, **problems(404, 412, 416)})
def read_report(request: Request, session: SessionDep, services: ServicesDep, job_id: PathName) -> Response:
    """Read the report: the bytes that the job wrote, as JSON."""
    artifact = queries.report(session, job_id)
    blob = Blob(artifact.sha256, artifact.bytes)
    validators = Validators(f'"{blob.sha256}"', artifact.created_at)
    return _file(request, services, blob, validators, media_type="application/json")


@router.get("/jobs/{job_id}/artifacts", deprecated=True, responses=problems(404))
def list_job_artifacts(session: SessionDep, job_id: PathName) -> list[ArtifactBody]:
    """List what the job produced, as a bare array, which GET /v1/artifacts?job= will replace."""
    return [_body(row) for row in queries.artifacts(session, job_id)]


@router.get("/artifacts", responses=problems(404, 422))
def list_artifacts(session: SessionDep, after: BeforeDep, job: JobQuery, limit: LimitQuery = 100) -> ArtifactPage:
    """List what a job produced, in a fixed order; empty until the job has ended."""
    rows = queries.artifacts(session, job, after, limit)
    return ArtifactPage(items=[_body(row) for row in rows], next_cursor=next_cursor(rows, limit))


@router.head("/jobs/{job_id}/artifacts/{name:path}", include_in_schema=False)
@router.get(
    "/jobs/{job_id}/artifacts/{name:path}",
    response_class=FileResponse,
    responses={200: _FILE, 206: _FILE, 307: _ELSEWHERE, **UNCHANGED, **problems(404, 412, 416)},
)
def download_artifact(
    *,
    request: Request,
    session: SessionDep,
    services: ServicesDep,
    job_id: PathName,
    name: PathName,
    redirect: RedirectQuery = False,
) -> Response:
    """Download one artifact, or a part of it (`Range`). `ETag` and `Repr-Digest` are its sha256."""
    artifact = queries.artifact(session, job_id, name)
    blob = Blob(artifact.sha256, artifact.bytes)
    validators = Validators(f'"{blob.sha256}"', artifact.created_at)
    filename = artifact.name.rpartition("/")[2]
    answer = _file(request, services, blob, validators, filename=filename)
    if not redirect or not isinstance(answer, StoredFile):
        return answer
    return SignedRedirect(answer.stored, download_of(request.method, MEDIA_TYPE, filename), answer)


def _body(row: queries.ArtifactRow) -> ArtifactBody:
    url = address(f"/v1/jobs/{row.job_id}/artifacts/{row.name}")
    return ArtifactBody(name=row.name, kind=row.kind, bytes=row.bytes, sha256=row.sha256, url=url)


def _file(
    request: Request,
    services: Services,
    blob: Blob,
    validators: Validators,
    *,
    filename: str | None = None,
    media_type: str = MEDIA_TYPE,
) -> Response:
    headers = {
        **validators.headers,
        "Repr-Digest": repr_digest(blob.sha256),
        "Cache-Control": "private, no-cache",
        "X-Content-Type-Options": "nosniff",
    }
    if otherwise := unmet(request, validators, headers):
        return otherwise
    part = None
    if _range_is_usable(request, validators):
        part = _part(request, blob.bytes)
        if not part:
            return unsatisfiable_range(request, blob.bytes)
    stored = Stored(blob, services.storage, services.admission.files)
    return StoredFile(stored, headers, part=part, media_type=media_type, filename=filename)


def _range_is_usable(request: Request, validators: Validators) -> bool:
    """Return whether the request has one well-formed range, for the bytes with this tag or of this time."""
    match = _RANGE.fullmatch(request.headers.get("range", ""))
    if not match or request.headers.get("if-range", validators.etag) not in validators.headers.values():
        return False
    first, last = match.groups()
    return bool(first or last) and not (first and last and int(first) > int(last))


def _part(request: Request, size: int) -> range:
    """Return the bytes that a usable range names; none when it begins behind the last one."""
    match = _RANGE.fullmatch(request.headers["range"])
    first, last = match.groups() if match else ("", "")
    if not first:
        return range(max(0, size - int(last)), size)
    return range(int(first), min(size, int(last) + 1) if last else size)
