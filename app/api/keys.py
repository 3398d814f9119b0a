"""/v1/keys: the keys of the caller's project. Admins alone come here."""

from datetime import datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from app.accounts import keys
from app.accounts.caller import Role, project_of_caller
from app.api.addresses import address
from app.api.answers import answer
from app.api.body_limit import LimitedRoute
from app.api.dependencies import PathName, SessionDep
from app.api.openapi import problems
from app.api.paging import BeforeDep, LimitQuery, next_cursor
from app.api.requests import SEEN_PATTERN
from app.api.schemas import Body

MOST_OVERLAP = 7 * 24 * 3600

router = APIRouter(prefix="/v1/keys", tags=["accounts"], route_class=LimitedRoute)


class KeyRequest(BaseModel):
    """A key to make."""

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, extra="forbid")

    name: Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=SEEN_PATTERN)]
    role: Role
    expires_at: AwareDatetime | None = None
    """When it stops to hold; null: never."""


class RotationRequest(BaseModel):
    """How a key is replaced."""

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, extra="forbid")

    overlap_seconds: Annotated[int, Field(ge=0, le=MOST_OVERLAP)] = 0
    """How long the old key holds beside the new one."""


ROTATION = RotationRequest()
"""Of a request without a body."""


class KeyBody(Body):
    """A key without its secret."""

    id: str
    name: str
    role: Role
    prefix: str
    """The beginning of the secret."""
    created_at: datetime
    expires_at: datetime | None
    """When it stops to hold; null: never."""
    revoked_at: datetime | None
    """When it was revoked; null: it was not."""
    last_used_at: datetime | None
    """When it was used last, to the minute; null: never."""


class NewKeyBody(KeyBody):
    """A key that was just made, with its secret."""

    key: str
    """The secret. Nobody can read it again."""


class KeyPage(Body):
    items: list[KeyBody]
    next_cursor: str | None


@router.post("", response_model=NewKeyBody, status_code=201, responses=problems(400, 413, 422))
def create_key(session: SessionDep, asked: KeyRequest) -> Response:
    """Make a key; the answer alone shows its secret."""
    return _shown(keys.create(session, project_of_caller(), asked.name, asked.role, asked.expires_at))


@router.get("", responses=problems(422))
def list_keys(session: SessionDep, before: BeforeDep, limit: LimitQuery = 20) -> KeyPage:
    """List keys, newest first, also those that hold no more."""
    rows = keys.page(session, before, limit)
    return KeyPage(items=[KeyBody.model_validate(row) for row in rows], next_cursor=next_cursor(rows, limit))


@router.get("/{key_id}", responses=problems(404))
def read_key(session: SessionDep, key_id: PathName) -> KeyBody:
    """Read a key, without its secret."""
    return KeyBody.model_validate(keys.read(session, key_id))


@router.post(
    "/{key_id}/rotate", response_model=NewKeyBody, status_code=201, responses=problems(400, 404, 409, 413, 422)
)
def rotate_key(session: SessionDep, key_id: PathName, asked: RotationRequest = ROTATION) -> Response:
    """Make a key with the same name and role; the old one ends with the overlap."""
    return _shown(keys.rotate(session, key_id, timedelta(seconds=asked.overlap_seconds)))


@router.delete("/{key_id}", status_code=204, responses=problems(404))
def revoke_key(session: SessionDep, key_id: PathName) -> Response:
    """Revoke a key: from the next request on it is refused. It stays in the list."""
    keys.revoke(session, key_id)
    return Response(status_code=204)


def _shown(made: keys.NewKey) -> Response:
    shown = KeyBody.model_validate(made.row).model_dump() | {"key": made.secret}
    headers = {"Location": address(f"/v1/keys/{made.row.id}"), "Cache-Control": "no-store"}
    return answer(NewKeyBody.model_validate(shown), 201, **headers)
