"""/v1/webhooks over HTTP: made, read, changed, and what became of their deliveries."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.accounts.models import AuditEntry
from app.api.dependencies import Services
from app.database import clock
from app.jobs import service
from app.jobs.submission import Submission
from app.jobs.work import QuantizeWork
from app.main import create_services
from app.settings import Settings
from app.webhooks import outbox
from app.webhooks.models import Delivery, Webhook
from app.webhooks.states import DeliveryState
from tests.factories import add_job
from zeropoint.schema.recipe import Recipe

URL = "https://hooks.example/zeropoint"
SECRET = "whsec_" + "QUJD" * 8


@pytest.fixture
def webhook(client: httpx.Client) -> dict[str, Any]:
    answer = client.post("/v1/webhooks", json={"url": URL, "description": "ours"})
    assert answer.status_code == 201
    assert answer.headers["cache-control"] == "no-store"
    made: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"/v1/webhooks/{made['id']}"
    return made


def dead(session: Session, count: int = 1) -> list[str]:
    """Deliveries that were given up."""
    for _ in range(count):
        service.request_cancel(session, add_job(session).id)
    outbox.publish(session)
    for row in session.scalars(select(Delivery)):
        row.state, row.ended_at, row.last_error = DeliveryState.DEAD, clock(session), "nobody is there"
    session.commit()
    return list(session.scalars(select(Delivery.id).order_by(Delivery.id.desc())))


def test_a_secret_is_shown_once(client: httpx.Client, webhook: dict[str, Any]) -> None:
    assert webhook["secret"].startswith("whsec_")
    assert webhook["events"] == ["job.succeeded", "job.failed", "job.cancelled"]
    shown = {key: value for key, value in webhook.items() if key != "secret"}
    assert client.get(f"/v1/webhooks/{webhook['id']}").json() == shown
    assert client.get("/v1/webhooks").json() == {"items": [shown], "next_cursor": None}
    rotated = client.post(f"/v1/webhooks/{webhook['id']}/rotate", json={"overlap_seconds": 60}).json()
    assert rotated["id"] == webhook["id"]
    assert rotated["secret"] != webhook["secret"]


def test_a_webhook_is_changed_and_deleted(client: httpx.Client, session: Session, webhook: dict[str, Any]) -> None:
    path = f"/v1/webhooks/{webhook['id']}"
    changed = client.patch(path, json={"enabled": False, "events": ["job.failed"]}).json()
    assert (changed["enabled"], changed["events"], changed["url"]) == (False, ["job.failed"], URL)
    assert client.patch(path, json={"url": "https://other.example/"}).json()["url"] == "https://other.example/"
    client.patch(path, json={"enabled": True, "events": ["job.cancelled"]})
    dead(session)
    assert client.delete(path).status_code == 204
    assert client.get(path).json()["code"] == "webhook_not_found"
    assert client.delete(path).status_code == 404
    session.rollback()
    assert session.scalars(select(Delivery)).all() == []


def test_every_change_is_in_the_audit_trail(client: httpx.Client, session: Session, webhook: dict[str, Any]) -> None:
    path = f"/v1/webhooks/{webhook['id']}"
    client.patch(path, json={"description": "x"})
    client.post(f"{path}/rotate")
    client.post(f"{path}/redeliver")
    client.delete(path)
    rows = session.scalars(select(AuditEntry).where(AuditEntry.target == webhook["id"]).order_by(AuditEntry.seq)).all()
    verbs = ["created", "changed", "rotated", "redelivered", "deleted"]
    assert [row.action for row in rows] == [f"webhook.{verb}" for verb in verbs]


@pytest.mark.parametrize(
    "url",
    [
        *(
            "http://hooks.example/",
            "https://127.0.0.1/",
            "https://[::ffff:10.0.0.1]/",
            "https://169.254.169.254/latest",
        ),
        *("https://user:word@hooks.example/", "file:///etc/passwd", "https:///", "hooks.example"),
    ],
)
def test_addresses_that_are_not_called_are_refused(client: httpx.Client, webhook: dict[str, Any], url: str) -> None:
    """Also where they come with a change, or with a job."""
    job = {"model": "mdl_0", "preset": "float16", "webhook": {"url": url, "secret": SECRET}}
    answers = {
        "/url": [
            client.post("/v1/webhooks", json={"url": url}),
            client.patch(f"/v1/webhooks/{webhook['id']}", json={"url": url}),
        ],
        "/webhook/url": [client.post("/v1/jobs", json=job)],
    }
    for pointer, refusals in answers.items():
        for refusal in refusals:
            body = refusal.json()
            assert (refusal.status_code, body["code"]) == (422, "webhook_url_refused")
            assert body["errors"][0]["pointer"] == pointer


@pytest.mark.parametrize(
    "body",
    [
        *({}, {"url": URL, "events": []}, {"url": URL, "events": ["job.eaten"]}, {"url": URL, "secret": SECRET}),
        *({"url": URL, "description": "a\u202eb"}, {"url": "h" * 3000}),
    ],
)
def test_other_requests_are_refused(client: httpx.Client, body: dict[str, Any]) -> None:
    answer = client.post("/v1/webhooks", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "request_invalid")


def test_there_are_no_more_than_may_be(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.webhooks.service.MOST_WEBHOOKS", 1)
    assert client.post("/v1/webhooks", json={"url": URL}).status_code == 201
    refusal = client.post("/v1/webhooks", json={"url": URL})
    assert (refusal.status_code, refusal.json()["code"]) == (409, "webhooks_too_many")


def test_dead_letters_are_listed_and_sent_again(
    client: httpx.Client, session: Session, webhook: dict[str, Any]
) -> None:
    path = f"/v1/webhooks/{webhook['id']}"
    ids = dead(session, 3)
    page = client.get(f"{path}/deliveries", params={"state": "dead", "limit": 2}).json()
    assert [item["id"] for item in page["items"]] == ids[:2]
    assert page["items"][0]["last_error"] == "nobody is there"
    rest = client.get(f"{path}/deliveries", params={"cursor": page["next_cursor"]}).json()
    assert [item["id"] for item in rest["items"]] == ids[2:]
    assert client.post(f"{path}/redeliver", json={"deliveries": [ids[1]]}).json() == {"deliveries": 1}
    assert client.post(f"{path}/redeliver", json={}).json() == {"deliveries": 2}
    assert client.post(f"{path}/redeliver", json={}).json() == {"deliveries": 0}
    items = client.get(f"{path}/deliveries", params={"state": "pending"}).json()["items"]
    assert [item["id"] for item in items] == ids
    missing = client.post(f"{path}/redeliver", json={"deliveries": [ids[0], "dlv_0"]})
    assert (missing.status_code, missing.json()["code"]) == (404, "delivery_not_found")


def test_a_job_brings_a_webhook_along(client: httpx.Client, session: Session, model_id: str) -> None:
    wish = {"model": model_id, "preset": "float16", "webhook": {"url": URL, "secret": SECRET}}
    key = {"Idempotency-Key": "once"}
    job = client.post("/v1/jobs", json=wish, headers=key).json()
    assert SECRET not in str(job)
    assert client.post("/v1/jobs", json=wish, headers=key).json()["id"] == job["id"]
    other = {**wish, "webhook": {**wish["webhook"], "url": URL + "/2"}}  # type: ignore[dict-item]
    assert client.post("/v1/jobs", json=other, headers=key).json()["code"] == "idempotency_key_reused"
    client.post(f"/v1/jobs/{job['id']}/cancel")
    outbox.publish(session)
    assert client.get("/v1/webhooks").json()["items"] == []
    (made,) = client.get("/v1/webhooks", params={"job": job["id"]}).json()["items"]
    assert (made["job"], made["url"]) == (job["id"], URL)
    (row,) = client.get(f"/v1/webhooks/{made['id']}/deliveries").json()["items"]
    assert (row["event"], row["job"], row["state"]) == ("job.cancelled", job["id"], "pending")
    weak = {**wish, "webhook": {"url": URL, "secret": "whsec_AAAA"}}
    (fault,) = client.post("/v1/jobs", json=weak).json()["errors"]
    assert fault == {"pointer": "/webhook/secret", "detail": "must be whsec_ and 24 to 64 bytes in base64"}


def test_a_job_that_is_deleted_at_once_is_told_of_all_the_same(
    client: httpx.Client, session: Session, webhook: dict[str, Any]
) -> None:
    job = add_job(session).id
    service.request_cancel(session, job)
    assert client.delete(f"/v1/jobs/{job}").status_code == 204
    (row,) = client.get(f"/v1/webhooks/{webhook['id']}/deliveries").json()["items"]
    assert (row["event"], row["job"]) == ("job.cancelled", job)


def test_requests_without_webhooks_keep_their_digests() -> None:
    """Those of an earlier version are found again under their idempotency keys."""
    assert (
        Submission("mdl_0", QuantizeWork(Recipe()), device="cpu").sha256
        == "ffa0506c1110775d7fdf45349179c61dcd6346c61d7e8a5042d876672774330c"
    )


@pytest.fixture
def services(client: httpx.Client, settings: Settings) -> Iterator[Services]:
    """Parts that let loopback be called."""
    before = client.app.state.services  # type: ignore[attr-defined]
    allowing = create_services(settings.model_copy(update={"webhook_private_addresses": "127.0.0.0/8"}))
    client.app.state.services = allowing  # type: ignore[attr-defined]
    yield allowing
    client.app.state.services = before  # type: ignore[attr-defined]
    allowing.engine.dispose()
    allowing.celery.close()


def test_an_operator_allows_networks(client: httpx.Client, services: Services, session: Session) -> None:
    assert client.post("/v1/webhooks", json={"url": "http://127.0.0.1:9/hook"}).status_code == 201
    assert client.post("/v1/webhooks", json={"url": "http://10.0.0.1/hook"}).status_code == 422
    assert client.post("/v1/webhooks", json={"url": "http://169.254.169.254/"}).status_code == 422
    assert session.scalars(select(Webhook.url)).all() == ["http://127.0.0.1:9/hook"]
