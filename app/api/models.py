"""/v1/models."""

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from app.api.addresses import address
from app.api.answers import answer
from app.api.conditions import of_upload, unmet
from app.api.dependencies import PathName, ServicesDep, SessionDep, UploadName
from app.api.imports import is_import, short_import
from app.api.openapi import UNCHANGED, problems
from app.api.paging import BeforeDep, LimitQuery, next_cursor
from app.api.schemas import ModelBody, ModelPage, ModelSummaryBody
from app.api.uploads import BODY, NameQuery, take_upload
from app.api.whole import read_whole
from app.catalog.service import MODELS
from app.jobs import service

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.post(
    "",
    response_model=ModelBody,
    status_code=201,
    openapi_extra=BODY,
    responses=problems(400, 413, 415, 422, 503, 507),
)
async def upload_model(request: Request, services: ServicesDep, name: NameQuery = None) -> Response:
    """Upload a torch.export archive (.pt2), a Hugging Face folder (tar, zip) or weights alone (.safetensors).

    `Repr-Digest` and `Content-Digest` (sha-256) are checked when given. A JSON body is what POST /v1/imports
    takes, without `purpose`.
    """
    if is_import(request):
        return await short_import(request, services, "model", name)
    model = await take_upload(request, services, name, MODELS)
    body = await run_in_threadpool(ModelBody.model_validate, model)
    return await run_in_threadpool(answer, body, 201, Location=address(f"/v1/models/{body.id}"))


@router.get("", responses=problems(422))
def list_models(session: SessionDep, before: BeforeDep, limit: LimitQuery = 20) -> ModelPage:
    """List models, newest first."""
    rows = MODELS.page(session, before, limit)
    return ModelPage(items=[ModelSummaryBody.model_validate(row) for row in rows], next_cursor=next_cursor(rows, limit))


@router.get("/{model_id}", response_model=ModelBody, responses={**UNCHANGED, **problems(404, 412)})
async def read_model(request: Request, services: ServicesDep, model_id: UploadName) -> Response:
    """Read a model: its inputs and its layers."""
    return await read_whole(request, services, MODELS, ModelBody, model_id)


@router.delete("/{model_id}", status_code=204, responses=problems(404, 409, 412))
def remove_model(request: Request, session: SessionDep, model_id: PathName) -> Response:
    """Delete a model; refused while a job that has not ended needs it."""
    validators = of_upload(model_id, MODELS.read(session, model_id).created_at)
    if otherwise := unmet(request, validators):
        return otherwise
    service.delete(session, MODELS, model_id)
    return Response(status_code=204)
