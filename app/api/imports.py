"""Imports by reference: the answer is an upload, whose state can be read.

`POST /v1/models` and `/v1/datasets` with JSON in place of a file are short for it. The contract does not say so, for
programs that generate clients would send each upload as JSON.
"""

import json
from typing import Annotated

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from app.accounts.quotas import Quotas
from app.api.addresses import address
from app.api.answers import answer
from app.api.body_limit import LimitedRoute, strict_json
from app.api.checks import Checks
from app.api.dependencies import Services, ServicesDep
from app.api.openapi import problems
from app.api.requests import SEEN_PATTERN
from app.api.upload_bodies import UploadBody
from app.errors import Malformed, TooLarge
from app.imports import rules_of, source_of
from app.jobs.usage import check_bytes
from app.uploads import service
from app.uploads.service import NewUpload, Purpose, UploadRow

MOST_BYTES = 2**14
"""Of a body that names a source; one of /v1/imports has the limits of all JSON bodies."""

router = APIRouter(prefix="/v1/imports", tags=["uploads"], route_class=LimitedRoute)


class SourceRequest(BaseModel):
    """What to import, and the name for people that it gets."""

    model_config = ConfigDict(use_attribute_docstrings=True, extra="forbid", frozen=True)

    source: Annotated[str, StringConstraints(min_length=1, max_length=2048)]
    """Where it is: https://…, s3://bucket/key, or hf://organization/name@revision."""
    name: Annotated[str | None, Field(min_length=1, max_length=255, pattern=SEEN_PATTERN)] = None
    """A name for people; by default that of the file."""


class ImportRequest(SourceRequest):
    """What to import, and as what."""

    purpose: Purpose
    """What it becomes."""


@router.post("", response_model=UploadBody, status_code=202, responses=problems(400, 413, 422))
async def begin_import(request: Request, services: ServicesDep, import_request: ImportRequest) -> Response:
    """Import a model or dataset from where the operator allows it; the answer is an upload, to be read again."""
    return await _begin(request, services, import_request, import_request.purpose, None)


def is_import(request: Request) -> bool:
    """Return whether a request for an upload names a source and sends no file."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"


async def short_import(request: Request, services: Services, purpose: Purpose, name: str | None) -> Response:
    """Begin an import where models or datasets are uploaded. Raises what `begin_import` does."""
    wish = await _read(request)
    return await _begin(request, services, wish, purpose, name)


async def _begin(
    request: Request, services: Services, wish: SourceRequest, purpose: Purpose, name: str | None
) -> Response:
    """Accept an import, and have it fetched. Raises Invalid."""
    source = source_of(wish.source, rules_of(services.settings))
    new = NewUpload(purpose, wish.name or name or source.filename, source.filename, None, source=wish.source)
    row = await services.admission.writing.run(_create, services, new, request.state.quotas)
    checks: Checks = request.app.state.checks
    checks.start(services, row.id)
    return answer(UploadBody.of(row), 202, Location=address(f"/v1/uploads/{row.id}"))


async def _read(request: Request) -> SourceRequest:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            raise TooLarge("body_too_large", "The JSON body is too large.", "Send source, and name if you like.")
    try:
        return SourceRequest.model_validate(strict_json(bytes(body)))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        detail = "The body is announced as JSON, and is none."
        raise Malformed(
            "json_malformed", detail, 'Send {"source": "https://…"}; or a file, without that type.'
        ) from None
    except ValidationError as error:
        raise RequestValidationError([{**fault, "loc": ("body", *fault["loc"])} for fault in error.errors()]) from None


def _create(services: Services, new: NewUpload, quotas: Quotas) -> UploadRow:
    with services.sessions() as session:
        check_bytes(session, quotas, 0)
        service.check_imports(session, quotas.uploads)
        return service.create(session, new, services.upload_lives)
