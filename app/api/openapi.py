"""The published contract: one problem schema for every refusal, and the states that are final."""

import json
from typing import Any

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi

from app.api.answers import LargeAnswer
from app.api.errors import PROBLEM, TYPE
from app.api.generators import complete
from app.api.schemas import Problem
from app.jobs.status import TERMINAL, JobState

_REASONS = {
    400: "The request can't be read.",
    401: "Nobody knows who asks.",
    403: "The caller's role may not do this.",
    404: "The resource does not exist.",
    409: "Not possible in the current state.",
    410: "It was here, and is over.",
    412: "A condition of the request does not hold.",
    413: "A limit is exceeded.",
    415: "This kind of content is not accepted.",
    416: "The range lies outside the artifact.",
    422: "The content is refused; errors names each place.",
    503: "Not available now; the answer says which part is missing.",
    507: "There is no room left for this file.",
}

_KEY = "A key (zp_…), or a token of the identity provider, where accounts are on."

UNCHANGED: dict[int | str, dict[str, Any]] = {304: {"description": "The client has it already."}}
"""The answer to a condition (`If-None-Match`, `If-Modified-Since`) that the state meets."""

_EXAMPLE = {
    "type": TYPE + "dataset_does_not_fit",
    "title": "The dataset doesn't fit the model",
    "status": 422,
    "code": "dataset_does_not_fit",
    "detail": "x: expected float32 [1..512, 1, 8, 8], got float32 [128, 3, 8, 8].",
    "remedy": "Save one tensor for each model input, under its name, with samples in the first dimension.",
    "request_id": "req_5f0c2a91b7d34e6688aa10cd",
    "errors": [{"pointer": "/dataset", "detail": "x: expected float32 [1..512, 1, 8, 8], got float32 [128, 3, 8, 8]."}],
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the refusals of an operation, for its documentation."""
    return {status: _response(_REASONS[status]) for status in statuses}


def publish(app: FastAPI) -> None:
    """Build /openapi.json from the routes, in our own error format."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]  # the documented way to extend the schema


def serve_contract(app: FastAPI) -> None:
    """Offer /openapi.json: written once, in a thread, since the event loop would stand still for seconds."""
    written: list[bytes] = []
    writer = CapacityLimiter(1)

    def write() -> bytes:
        if not written:
            written.append(json.dumps(app.openapi(), separators=(",", ":")).encode())
        return written[0]

    async def contract(_request: Request) -> Response:
        content = written[0] if written else await to_thread.run_sync(write, limiter=writer)
        return LargeAnswer(content, media_type="application/json")

    app.add_route("/openapi.json", contract, include_in_schema=False)


def _document(app: FastAPI) -> dict[str, Any]:
    prefix = app.state.services.settings.root_path
    contract = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        summary=app.summary,
        routes=app.routes,
        servers=[{"url": prefix}] if prefix else None,
    )
    schemas = contract["components"]["schemas"]
    schemas["Problem"] = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(schemas["Problem"].pop("$defs"))
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for operations in contract["paths"].values():
        for operation in operations.values():
            if "422" in operation["responses"]:
                operation["responses"]["422"] = _response(_REASONS[422])
            operation["responses"] |= problems(401, 403)
            operation["responses"]["default"] = _response("Any other refusal.")
    complete(contract)
    contract["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer", "description": _KEY}}
    contract["security"] = [{}, {"key": []}]
    contract["x-job-states"] = {
        "all": [state.value for state in JobState],
        "terminal": [state.value for state in JobState if state in TERMINAL],
    }
    return contract


def _response(description: str) -> dict[str, Any]:
    content = {"schema": {"$ref": "#/components/schemas/Problem"}, "example": _EXAMPLE}
    return {"description": description, "content": {PROBLEM: content}}
