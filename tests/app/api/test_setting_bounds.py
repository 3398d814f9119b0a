"""Every number among the settings has bounds, and at both of them the service works or refuses, and never fails."""

import logging
from collections.abc import Iterator
from typing import Any

import annotated_types
import httpx
import pytest
from pydantic.fields import FieldInfo
from sqlalchemy.orm import Session, sessionmaker

from app.jobs import claims
from app.jobs.reconciler import look
from app.jobs.retention import collect_garbage
from app.main import create_services
from app.settings import Settings
from tests.factories import safetensors

NUMBERS = {
    name: field
    for name, field in Settings.model_fields.items()
    if field.annotation in (int, float, int | None, float | None)
}
QUOTAS = [name for name in NUMBERS if name.startswith("quota_")]
"""One of 0 refuses everything, as it should: test_quotas has them."""


def bound(field: FieldInfo, kind: Any, name: str) -> Any:
    (found,) = [getattr(limit, name) for limit in field.metadata if isinstance(limit, kind)]
    return found


BOUNDS = {
    "least": {name: bound(field, annotated_types.Ge, "ge") for name, field in NUMBERS.items()},
    "most": {name: bound(field, annotated_types.Le, "le") for name, field in NUMBERS.items()},
}


@pytest.fixture(params=BOUNDS)
def bounded(request: pytest.FixtureRequest, served: httpx.Client, settings: Settings) -> Iterator[Settings]:
    settings = Settings.model_validate(
        {**settings.model_dump(), **BOUNDS[request.param], "gates": None, **dict.fromkeys(QUOTAS)}
    )
    services = create_services(settings)
    served.app.state.services = services  # type: ignore[attr-defined]
    yield settings
    services.engine.dispose()
    services.celery.close()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_at_the_bounds_nothing_fails(
    bounded: Settings,
    served: httpx.Client,
    sessions: sessionmaker[Session],
    model_id: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    content = safetensors(x=("F32", [4, 3]))
    for kind in ("models", "datasets"):
        answer = served.post(f"/v1/{kind}", content=content)
        assert answer.status_code in (201, 413, 422), answer.text
    wish = {"model": model_id, "preset": "int8-weight-only"}
    submitted = served.post("/v1/jobs", json=wish, headers={"Prefer": "wait=1"})
    assert submitted.status_code == 202, submitted.text
    with sessions() as session:
        assert claims.claim(session, "cpu", "worker", bounded.lease_seconds) is not None
    services = served.app.state.services  # type: ignore[attr-defined]
    look(bounded, services.celery)
    collect_garbage(sessions, services.storage, bounded)
    assert served.get("/v1/jobs").json()["items"][0]["id"] == submitted.json()["id"]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
