"""Answers that may be large: written as JSON in the endpoint's own thread, and not on the event loop."""

from fastapi import Response
from pydantic import BaseModel


def answer(body: BaseModel, status: int = 200, **headers: str) -> Response:
    """Return a body as JSON."""
    return Response(body.model_dump_json(), status, headers, "application/json")
