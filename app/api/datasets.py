"""/v1/datasets."""

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from app.api.addresses import address
from app.api.answers import answer
from app.api.conditions import of_upload, unmet
from app.api.dependencies import PathName, ServicesDep, SessionDep, UploadName
from app.api.imports import is_import, short_import
from app.api.openapi import UNCHANGED, problems
from app.api.paging import BeforeDep, LimitQuery, next_cursor
from app.api.schemas import DatasetBody, DatasetPage, DatasetSummaryBody
from app.api.uploads import BODY, NameQuery, take_upload
from app.api.whole import read_whole
from app.catalog.service import DATASETS
from app.jobs import service

router = APIRouter(prefix="/v1/datasets", tags=["datasets"])


@router.post(
    "",
    response_model=DatasetBody,
    status_code=201,
    openapi_extra=BODY,
    responses=problems(400, 413, 415, 422, 503, 507),
)
async def upload_dataset(request: Request, services: ServicesDep, name: NameQuery = None) -> Response:
    """Upload named samples (.safetensors), one tensor for each model input.

    `Repr-Digest` and `Content-Digest` (sha-256) are checked when given. A JSON body is what POST /v1/imports
    takes, without `purpose`.
    """
    if is_import(request):
        return await short_import(request, services, "dataset", name)
    dataset = await take_upload(request, services, name, DATASETS)
    body = await run_in_threadpool(DatasetBody.model_validate, dataset)
    return await run_in_threadpool(answer, body, 201, Location=address(f"/v1/datasets/{body.id}"))


@router.get("", responses=problems(422))
def list_datasets(session: SessionDep, before: BeforeDep, limit: LimitQuery = 20) -> DatasetPage:
    """List datasets, newest first."""
    rows = DATASETS.page(session, before, limit)
    return DatasetPage(
        items=[DatasetSummaryBody.model_validate(row) for row in rows], next_cursor=next_cursor(rows, limit)
    )


@router.get("/{dataset_id}", response_model=DatasetBody, responses={**UNCHANGED, **problems(404, 412)})
async def read_dataset(request: Request, services: ServicesDep, dataset_id: UploadName) -> Response:
    """Read a dataset: its tensors and how many samples they hold."""
    return await read_whole(request, services, DATASETS, DatasetBody, dataset_id)


@router.delete("/{dataset_id}", status_code=204, responses=problems(404, 409, 412))
def remove_dataset(request: Request, session: SessionDep, dataset_id: PathName) -> Response:
    """Delete a dataset; refused while a job that has not ended needs it."""
    validators = of_upload(dataset_id, DATASETS.read(session, dataset_id).created_at)
    if otherwise := unmet(request, validators):
        return otherwise
    service.delete(session, DATASETS, dataset_id)
    return Response(status_code=204)
