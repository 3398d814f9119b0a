"""/v1/usage: what the caller's project has and does, and may."""

from fastapi import APIRouter

from app.accounts.caller import project_of_caller
from app.accounts.quotas import quotas_of
from app.api.dependencies import ServicesDep, SessionDep
from app.api.schemas import Body
from app.jobs.usage import usage

router = APIRouter(prefix="/v1/usage", tags=["accounts"])


class Used(Body):
    """A quota."""

    used: int
    """How much of it is used now."""
    quota: int | None
    """The most that there may be; null: no bound."""


class UsageBody(Body):
    """What a project uses of its quotas."""

    project: str
    """The caller's project."""
    bytes: Used
    """Bytes stored: models, datasets, artifacts, and parts of uploads that have not ended."""
    uploads: Used
    """Uploads that the answering API process receives now."""
    jobs: Used
    """Jobs and sweeps that have not ended."""
    jobs_a_day: Used
    """Jobs and sweeps submitted in the last 24 hours, also those that were deleted."""
    requests_a_second: int | None
    """How many requests a second it may send; null: no bound."""


@router.get("")
def read_usage(session: SessionDep, services: ServicesDep) -> UsageBody:
    """Read what the caller's project uses, and its quotas."""
    project = project_of_caller()
    quotas, used = quotas_of(session, services.settings, project), usage(session)
    return UsageBody(
        project=project,
        bytes=Used(used=used.bytes, quota=quotas.bytes),
        uploads=Used(used=services.rates.uploads(project), quota=quotas.uploads),
        jobs=Used(used=used.jobs, quota=quotas.jobs),
        jobs_a_day=Used(used=used.jobs_a_day, quota=quotas.jobs_a_day),
        requests_a_second=quotas.requests_a_second,
    )
