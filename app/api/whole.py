"""Models and datasets as answers, with all their layers or tensors: at most a few are made at once, and each once.

An upload never changes, so neither does its answer. The latest ones are kept, since whoever asks for a large one asks
again.
"""

from datetime import datetime

from fastapi import Request, Response
from pydantic import BaseModel

from app.api.answers import LargeAnswer
from app.api.conditions import of_upload, unmet
from app.api.dependencies import Services
from app.catalog.service import Catalog, Row


async def read_whole(
    request: Request, services: Services, catalog: Catalog[Row], kind: type[BaseModel], named: str
) -> Response:
    """Answer with an upload, by its id or a name with a version. Raises NotFound, Unavailable."""
    upload_id, created_at = await services.admission.reading.run(_found, services, catalog, named)
    validators = of_upload(upload_id, created_at)
    if otherwise := unmet(request, validators):
        return otherwise
    content = services.rendered.get(upload_id)
    if content is None:
        content = await services.admission.whole.run(_render, services, catalog, kind, upload_id)
    return LargeAnswer(content, 200, validators.headers, "application/json")


def _found(services: Services, catalog: Catalog[Row], named: str) -> tuple[str, datetime]:
    with services.sessions() as session:
        row = catalog.read(session, catalog.id_of(session, named))
        return row.id, row.created_at


def _render(services: Services, catalog: Catalog[Row], kind: type[BaseModel], upload_id: str) -> bytes:
    if content := services.rendered.get(upload_id):  # made while this request waited for its place
        return content
    with services.sessions() as session:
        body = kind.model_validate(catalog.read_whole(session, upload_id))
    content = body.model_dump_json().encode()
    services.rendered.keep(upload_id, content)
    return content
