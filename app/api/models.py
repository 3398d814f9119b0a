"""/v1/models."""

from fastapi import APIRouter, Request, Response

from app.api.dependencies import PathName, ServicesDep, SessionDep
from app.api.openapi import problems
from app.api.paging import BeforeDep, LimitQuery, next_cursor
from app.api.schemas import ModelBody, ModelPage
from app.api.uploads import BODY, NameQuery, take_upload
from app.catalog.service import MODELS
from app.jobs import service

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.post("", status_code=201, openapi_extra=BODY, responses=problems(400, 413, 415, 422, 507))
async def upload_model(
    request: Request, response: Response, services: ServicesDep, name: NameQuery = None
) -> ModelBody:
    """Upload a torch.export archive (.pt2), a Hugging Face folder (tar, zip) or weights alone (.safetensors).

    `Repr-Digest` and `Content-Digest` (sha-256) are checked when given.
    """
    model = await take_upload(request, services, name, MODELS.add)
    response.headers["Location"] = f"/v1/models/{model.id}"
    return ModelBody.model_validate(model)


@router.get("", responses=problems(422))
def list_models(session: SessionDep, before: BeforeDep, limit: LimitQuery = 20) -> ModelPage:
    """List models, newest first."""
    rows = MODELS.page(session, before, limit)
    return ModelPage(items=[ModelBody.model_validate(row) for row in rows], next_cursor=next_cursor(rows, limit))


@router.get("/{model_id}", responses=problems(404))
def read_model(session: SessionDep, model_id: PathName) -> ModelBody:
    """Read a model: its inputs and its layers."""
    return ModelBody.model_validate(MODELS.read(session, model_id))


@router.delete("/{model_id}", status_code=204, responses=problems(404, 409))
def remove_model(session: SessionDep, model_id: PathName) -> None:
    """Delete a model; refused while a job that has not ended needs it."""
    service.delete(session, MODELS, model_id)
