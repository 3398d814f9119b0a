"""The one place that knows status numbers: every refusal becomes application/problem+json (RFC 9457)."""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from app import metrics
from app.api.outages import DATABASE_REFUSALS, EXHAUSTED, NO_THREAD, exhausted, storage_away
from app.api.wording import faults_of
from app.database import trouble_of
from app.errors import (
    TITLES,
    Conflict,
    Damaged,
    Forbidden,
    Gone,
    Invalid,
    Malformed,
    NotFound,
    ServiceError,
    StorageFull,
    TooLarge,
    TooMany,
    TooSlow,
    Unauthorized,
    Unavailable,
    WrongType,
    WrongVersion,
)
from app.storage import StorageAway

Handler = Callable[[Request, Exception], Response]

log = logging.getLogger(__name__)

PROBLEM = "application/problem+json"
TYPE = "urn:zeropoint:problem:"

CHECKSUM_MISMATCH = 460
"""The protocol tus has a status of its own for it."""

STATUSES: dict[type[ServiceError], int] = {
    Malformed: HTTPStatus.BAD_REQUEST,
    Unauthorized: HTTPStatus.UNAUTHORIZED,
    Forbidden: HTTPStatus.FORBIDDEN,
    NotFound: HTTPStatus.NOT_FOUND,
    Gone: HTTPStatus.GONE,
    Conflict: HTTPStatus.CONFLICT,
    TooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    TooSlow: HTTPStatus.REQUEST_TIMEOUT,
    WrongType: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    TooMany: HTTPStatus.TOO_MANY_REQUESTS,
    WrongVersion: HTTPStatus.PRECONDITION_FAILED,
    Damaged: CHECKSUM_MISMATCH,
    Invalid: HTTPStatus.UNPROCESSABLE_ENTITY,
    Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    StorageFull: HTTPStatus.INSUFFICIENT_STORAGE,
}


class BodyRefused(HTTPException):
    """A refusal that comes while a body is read: FastAPI lets only this kind through there."""

    def __init__(self, refusal: ServiceError) -> None:
        super().__init__(HTTPStatus.BAD_REQUEST)
        self.refusal = refusal


def install(app: FastAPI) -> None:
    """Answer every error of an application with a problem."""
    handlers: dict[type[Exception], Handler] = {
        ServiceError: _on_service_error,
        RequestValidationError: _on_validation_error,
        HTTPException: _on_http_exception,
        SQLAlchemyError: _on_database_error,
        OSError: _on_system_error,
        RuntimeError: _on_runtime_error,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, _without_thread(handler))


def _without_thread(handler: Handler) -> Callable[[Request, Exception], Awaitable[Response]]:
    """Return the handler as a coroutine: any other would wait for a thread, and a refusal must come at once."""

    async def handle(request: Request, error: Exception) -> Response:
        return handler(request, error)

    return handle


def problem(
    request_id: str, status: int, error: ServiceError, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """Return an error as a response, and count it."""
    metrics.REFUSALS.labels(error.code).inc()
    body: dict[str, Any] = {
        "type": TYPE + error.code,
        "title": error.title,
        "status": int(status),
        "code": error.code,
        "detail": error.detail,
        "remedy": error.remedy,
        "request_id": request_id,
    }
    if error.faults:
        body["errors"] = [{"pointer": fault.pointer, "detail": fault.detail} for fault in error.faults]
    if error.more_faults:
        body["more_errors"] = error.more_faults
    if status == HTTPStatus.UNAUTHORIZED:
        headers = {**(headers or {}), "WWW-Authenticate": 'Bearer realm="zeropoint"'}
    if error.retry_after is not None:
        headers = {**(headers or {}), "Retry-After": str(error.retry_after)}
    return JSONResponse(body, status, headers, PROBLEM)


def refusal_answer(request_id: str, error: ServiceError, *, close: bool = False) -> JSONResponse:
    """Return a refusal as a response; `close`: nothing more is read from this connection."""
    status = next(status for kind, status in STATUSES.items() if isinstance(error, kind))
    return problem(request_id, status, error, {"Connection": "close"} if close else None)


def fault_answer(request_id: str, error: Exception) -> JSONResponse:
    """Return the answer to what middleware can't do; an error that is our own mistake goes on."""
    if isinstance(error, ServiceError):
        return refusal_answer(request_id, error)
    trouble = trouble_of(error)
    if trouble is None:
        raise error
    log.warning("%s: the database: %s", request_id, trouble.value, exc_info=error)
    return refusal_answer(request_id, DATABASE_REFUSALS[trouble]())


def internal_error(request_id: str) -> JSONResponse:
    """Return the answer to an unexpected exception: it holds the request's id and no details."""
    code = "internal_error"
    metrics.REFUSALS.labels(code).inc()
    body = {"type": TYPE + code, "title": TITLES[code], "status": 500, "code": code, "request_id": request_id}
    return JSONResponse(body, HTTPStatus.INTERNAL_SERVER_ERROR, media_type=PROBLEM)


def unsatisfiable_range(request: Request, size: int) -> JSONResponse:
    """Return the answer to a range that begins behind the last byte."""
    error = ServiceError(
        "range_not_satisfiable", f"The artifact has {size} bytes.", "Ask for a range that begins inside of it."
    )
    headers = {"Content-Range": f"bytes */{size}"}
    return problem(request.state.request_id, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, error, headers)


def method_refused(request_id: str, method: str, path: str, allowed: Sequence[str]) -> JSONResponse:
    """Return the answer to a method that an address doesn't have."""
    listed = ", ".join(allowed)
    remedy = f"This address takes {listed}."
    if method in ("PUT", "PATCH"):  # curl -T without -X; behind a slash it adds the name of the file to the address
        remedy += " An upload is a POST, to an address without a slash at its end: curl -X POST -T FILE …/v1/models"
        remedy += " or …/v1/datasets."
    error = ServiceError("method_not_allowed", f"{method[:16]} {path[:200]} is not offered.", remedy)
    return problem(request_id, HTTPStatus.METHOD_NOT_ALLOWED, error, {"Allow": listed})


def precondition_failed(request: Request, detail: str) -> JSONResponse:
    """Return the answer to a condition that does not hold (If-Match, If-None-Match, If-Unmodified-Since)."""
    error = ServiceError("precondition_failed", detail, "Read it again and use the ETag of that answer.")
    return problem(request.state.request_id, HTTPStatus.PRECONDITION_FAILED, error)


def _on_service_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, ServiceError):
        raise error
    return refusal_answer(request.state.request_id, error)


def _on_database_error(request: Request, error: Exception) -> Response:
    return fault_answer(request.state.request_id, error)


def _on_system_error(request: Request, error: Exception) -> Response:
    """Answer that the storage is away, or that the process has no files, threads or memory left; others go on."""
    if isinstance(error, StorageAway):
        log.warning("%s: the storage is away", request.state.request_id, exc_info=error)
        return _on_service_error(request, storage_away())
    if not isinstance(error, OSError) or error.errno not in EXHAUSTED:
        raise error
    log.error("%s: the process is at a limit of the system", request.state.request_id, exc_info=error)
    return _on_service_error(request, exhausted())


def _on_runtime_error(request: Request, error: Exception) -> Response:
    """Answer that the system gives no more threads, which Python reports without a number; any other error goes on."""
    if NO_THREAD not in str(error):
        raise error
    log.error("%s: the process gets no more threads", request.state.request_id, exc_info=error)
    return _on_service_error(request, exhausted())


def _on_validation_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    errors = error.errors()
    if any(entry["type"] == "json_invalid" for entry in errors):
        return _on_service_error(
            request, Malformed("json_malformed", "The body is not valid JSON.", "Send one JSON object in UTF-8.")
        )
    if any(entry["loc"][0] == "path" for entry in errors):
        return _on_service_error(request, no_route(request.method, request.url.path))
    faults = faults_of(errors)
    refusal = Invalid(
        "request_invalid",
        "; ".join(f"{fault.pointer} {fault.detail}" for fault in faults[:3]) + ".",
        "Correct what errors names; /openapi.json describes every request.",
        faults,
        more_faults=len(errors) - len(faults),
    )
    return _on_service_error(request, refusal)


def _on_http_exception(request: Request, error: Exception) -> Response:
    """Answer a refusal of the framework itself with a problem."""
    if not isinstance(error, HTTPException):
        raise error
    if isinstance(error, BodyRefused):
        return refusal_answer(request.state.request_id, error.refusal, close=True)
    refusals: dict[int, ServiceError] = {
        404: no_route(request.method, request.url.path),
        413: TooLarge(
            "body_too_large",
            "The JSON body is too large, or holds too many values.",
            "Send a smaller one; a recipe takes a few KiB.",
        ),
    }
    unreadable = Malformed("request_unreadable", "The request can't be read.", "Send a JSON object in UTF-8.")
    refusal = refusals.get(error.status_code, unreadable)
    status = error.status_code if error.status_code in refusals else HTTPStatus.BAD_REQUEST
    return problem(request.state.request_id, status, refusal, error.headers)


def no_route(method: str, path: str) -> NotFound:
    """Return the refusal where there is no address."""
    shown = "".join(character if character.isprintable() else "?" for character in path[:200])
    return NotFound("route_not_found", f"Nothing answers {method} {shown}.", "/openapi.json lists every address.")
