"""/v1/audit: who did what in the caller's project. Admins alone come here."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query

from app.accounts import audit
from app.api.dependencies import SessionDep
from app.api.openapi import problems
from app.api.schemas import Body

router = APIRouter(prefix="/v1/audit", tags=["accounts"])


class AuditBody(Body):
    """One thing that was done, written in the transaction that did it."""

    seq: int
    """Its number; they rise, with gaps."""
    at: datetime
    """When it was done."""
    actor: str
    """The id of a key, `oidc:` and the subject of a token, `command line`, or `anyone` where accounts are off."""
    action: str
    """What was done: a kind of thing and a verb, such as job.submitted."""
    target: str
    """The id of what it was done to."""
    request_id: str | None
    """The id of the request; null for the command line."""


class AuditPage(Body):
    items: list[AuditBody]
    next_before: int | None
    """Send it as before to get the next page; null on the last one."""


@router.get("", responses=problems(422))
def list_audit(
    session: SessionDep,
    before: Annotated[int | None, Query(ge=1, lt=2**63, description="Only entries with lower numbers.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> AuditPage:
    """List what was done, newest first."""
    rows = audit.page(session, before, limit)
    more = rows[-1].seq if len(rows) == limit else None
    return AuditPage(items=[AuditBody.model_validate(row) for row in rows], next_before=more)
