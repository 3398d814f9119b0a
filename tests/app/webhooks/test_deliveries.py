"""Deliveries: made with the event, claimed by one, tried for a day, dead afterwards, and sent again by hand."""

import json
from datetime import timedelta
from typing import Any, get_args

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session, sessionmaker

from app.accounts.models import AuditEntry
from app.database import begin_writing, clock
from app.jobs import endings, repository, service
from app.jobs.status import TERMINAL, JobState
from app.webhooks import deliveries, outbox
from app.webhooks import service as webhooks
from app.webhooks.deliveries import Claimed, Lane
from app.webhooks.models import Delivery, Webhook
from app.webhooks.states import DAY, FIRST_PAUSE, JITTER, LONGEST_PAUSE, DeliveryState, pause_after
from tests.app.webhooks.conftest import MakeWebhook
from tests.factories import add_job, claim_one
from zeropoint.schema.job import Failure

LEASE = timedelta(seconds=60)
URL = "https://hooks.example/"
FAILURE = Failure(code="out_of_memory", title="t", detail="d", remedy="r")
SECRET = "whsec_" + "A" * 43 + "="


def lane(*, slow: bool = False, most: int = 100, most_each: int = 100, known_slow: tuple[str, ...] = ()) -> Lane:
    return Lane(slow, most, most_each, known_slow, ())


def claim(session: Session, chosen: Lane | None = None, lease: timedelta = LEASE) -> list[Claimed]:
    return deliveries.claim(session, chosen or lane(), lease)


def only(session: Session) -> Delivery:
    session.expire_all()
    found = session.scalars(select(Delivery)).one()
    session.rollback()
    return found


def earlier(session: Session, **by: timedelta) -> None:
    """Let it be later: move times of all deliveries back."""
    begin_writing(session)
    for delivery in session.scalars(select(Delivery)):
        for name, passed in by.items():
            setattr(delivery, name, getattr(delivery, name) - passed)
    session.commit()


def cancelled(session: Session, **fields: Any) -> str:
    job = add_job(session, **fields)
    service.request_cancel(session, job.id)
    return job.id


def test_an_event_becomes_a_delivery_for_each_webhook_that_asks_for_it(
    session: Session, make_webhook: MakeWebhook
) -> None:
    ends, all_states = make_webhook(URL), make_webhook(URL, events=("job.queued", "job.running", "job.cancelled"))
    other = make_webhook(URL, "theirs")
    make_webhook(URL, events=("job.failed",))
    off = make_webhook(URL).row
    off.enabled = False
    session.commit()
    job = cancelled(session, tags=("nightly",), owner="me")
    assert outbox.publish(session) == 2
    assert outbox.publish(session) == 0
    rows = session.scalars(select(Delivery).order_by(Delivery.position, Delivery.webhook_id)).all()
    expected = {(1, all_states.row.id), (2, ends.row.id), (2, all_states.row.id)}
    assert {(row.position, row.webhook_id) for row in rows} == expected
    assert len({row.id for row in rows}) == 3
    content = json.loads(rows[-1].body)
    assert content["type"] == "job.cancelled"
    facts = {"job": job, "kind": "quantize", "state": "cancelled", "seq": 2, "position": 2, "project": "default"}
    assert content["data"] | facts | {"tags": ["nightly"], "owner": "me"} == content["data"]
    assert other.row.id not in {row.webhook_id for row in rows}


def test_types_are_those_of_the_states_and_phases(session: Session, make_webhook: MakeWebhook) -> None:
    assert set(get_args(outbox.EventType)) == {f"job.{state}" for state in JobState} | {"job.phase"}
    assert set(outbox.ENDS) == {f"job.{state}" for state in TERMINAL}


def test_a_job_brings_its_webhook_along(session: Session, sessions: sessionmaker[Session]) -> None:
    webhook = {"url": URL, "secret": SECRET, "events": ["job.queued", "job.cancelled"]}
    job = cancelled(session, project="theirs", webhook=webhook)
    cancelled(session, project="theirs")
    outbox.publish(session)
    made = session.scalars(select(Webhook)).one()
    assert (made.job_id, made.project, made.url, made.secret) == (job, "theirs", URL, SECRET)
    found = session.scalars(select(Delivery).order_by(Delivery.position)).all()
    assert [(row.event, row.job_id, row.project) for row in found] == [
        ("job.queued", job, "theirs"),
        ("job.cancelled", job, "theirs"),
    ]


def test_one_at_a_time_claims_a_delivery_until_its_lease_ends(
    session: Session, sessions: sessionmaker[Session], make_webhook: MakeWebhook
) -> None:
    made = make_webhook(URL)
    cancelled(session)
    outbox.publish(session)
    (first,) = claim(session)
    assert (first.url, first.attempt, first.secrets) == (URL, 1, (made.secret,))
    with sessions() as other:
        assert claim(other) == []
        earlier(session, due_at=LEASE)
        (second,) = claim(other)
    assert (second.id, second.body, second.attempt) == (first.id, first.body, 2)
    deliveries.record_failed(session, first, "late")  # whoever lost the lease changes nothing
    assert only(session).last_error is None
    deliveries.record_delivered(session, second, 204)
    row = only(session)
    assert (row.state, row.attempts, row.last_status) == (DeliveryState.DELIVERED, 2, 204)
    assert claim(session) == []


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_two_that_claim_at_once_get_different_deliveries(
    session: Session, sessions: sessionmaker[Session], make_webhook: MakeWebhook
) -> None:
    make_webhook(URL)
    for _ in range(4):
        cancelled(session)
    outbox.publish(session)
    with sessions() as other:
        begin_writing(other)
        first = deliveries._due(lane(), clock(other)).subquery()
        held = other.scalars(
            select(Delivery).where(Delivery.id.in_(select(first.c.id))).limit(2).with_for_update()
        ).all()
        claimed = claim(session)
        assert {row.id for row in held}.isdisjoint({one.id for one in claimed})
        assert len(claimed) == 2


def test_failures_are_tried_again_with_longer_pauses_for_a_day_and_are_dead_then(
    session: Session, make_webhook: MakeWebhook
) -> None:
    webhook = make_webhook(URL).row.id
    cancelled(session)
    outbox.publish(session)
    tried, pauses = 0, list[timedelta]()
    while True:
        (claimed,) = claim(session, lane(slow=tried > 0))
        tried += 1
        at = clock(session)
        deliveries.record_failed(session, claimed, "The target answered 500.", 500)
        row = only(session)
        if row.state != DeliveryState.PENDING:
            break
        assert claim(session, lane(slow=True)) == []
        pauses.append(row.due_at - at)
        earlier(session, due_at=pauses[-1], begun_at=pauses[-1])
    assert pauses[0] < timedelta(seconds=7)
    assert sum(pauses, timedelta(0)) > DAY * 0.8
    assert max(pauses) <= LONGEST_PAUSE * (1 + JITTER) + timedelta(seconds=5)
    assert (row.state, row.last_status) == (DeliveryState.DEAD, 500)
    assert 10 <= tried <= 25
    assert session.get_one(Webhook, webhook).failing_since is not None
    assert webhooks.redeliver(session, webhook, None) == 1
    (again,) = claim(session, lane(slow=True))
    assert (again.id, again.body) == (claimed.id, claimed.body)
    deliveries.record_delivered(session, again, 200)
    session.expire_all()
    assert session.get_one(Webhook, webhook).failing_since is None


def test_pauses_double_and_a_target_may_ask_for_longer_ones() -> None:
    elapsed, pauses = timedelta(0), []
    while elapsed < DAY:
        pause = pause_after(elapsed)
        pauses.append(pause)
        elapsed += pause
    assert 12 <= len(pauses) <= 20
    assert all(FIRST_PAUSE * (1 - JITTER) <= pause <= LONGEST_PAUSE * (1 + JITTER) for pause in pauses)
    assert pause_after(timedelta(0), timedelta(minutes=10)) == timedelta(minutes=10)
    assert pause_after(timedelta(0), timedelta(days=10)) == LONGEST_PAUSE


def test_a_target_that_is_gone_ends_its_webhook(session: Session, make_webhook: MakeWebhook) -> None:
    webhook = make_webhook(URL).row.id
    cancelled(session)
    outbox.publish(session)
    (claimed,) = claim(session)
    deliveries.record_failed(session, claimed, "gone", 410)
    session.expire_all()
    assert not session.get_one(Webhook, webhook).enabled
    assert only(session).state == DeliveryState.DEAD
    assert "webhook.disabled" in session.scalars(select(AuditEntry.action)).all()


def test_a_claim_takes_few_of_each_webhook_and_keeps_slow_ones_apart(
    session: Session, make_webhook: MakeWebhook
) -> None:
    good, failing, slow = (make_webhook(URL).row for _ in range(3))
    for _ in range(5):
        cancelled(session)
    outbox.publish(session)
    session.execute(update(Webhook).where(Webhook.id == failing.id).values(failing_since=good.created_at))
    session.commit()
    fast = claim(session, lane(most_each=2, known_slow=(slow.id,)))
    assert [one.webhook_id for one in fast] == [good.id] * 2
    others = claim(session, lane(slow=True, most=3, most_each=2, known_slow=(slow.id,)))
    assert {one.webhook_id for one in others} == {failing.id, slow.id}
    assert len(others) == 3


def test_what_is_too_old_is_given_up_and_forgotten(session: Session, make_webhook: MakeWebhook) -> None:
    webhook = make_webhook(URL).row
    cancelled(session)
    outbox.publish(session)
    webhooks_off = update(Webhook).where(Webhook.id == webhook.id).values(enabled=False)
    session.execute(webhooks_off)
    session.commit()
    assert claim(session) == []
    deliveries.tidy(session)
    assert only(session).state == DeliveryState.PENDING
    earlier(session, begun_at=DAY + LEASE)
    deliveries.tidy(session)
    assert only(session).state == DeliveryState.DEAD
    earlier(session, ended_at=deliveries.KEEP_DEAD + LEASE)
    deliveries.tidy(session)
    assert session.scalars(select(Delivery)).all() == []


def test_a_former_secret_signs_until_its_overlap_ends(session: Session, make_webhook: MakeWebhook) -> None:
    made = make_webhook(URL)
    for _ in range(2):
        cancelled(session)
    outbox.publish(session)
    second = webhooks.rotate(session, made.row.id, timedelta(hours=1)).secret
    assert claim(session, lane(most=1))[0].secrets == (second, made.secret)
    third = webhooks.rotate(session, made.row.id, timedelta(0)).secret
    assert claim(session)[0].secrets == (third,)


def test_a_delivery_outlives_its_job(session: Session, make_webhook: MakeWebhook) -> None:
    make_webhook(URL)
    job = add_job(session).id
    endings.fail(session, claim_one(session), FAILURE)
    outbox.publish(session)
    begin_writing(session)
    session.expire_all()
    assert repository.delete_ended(session, clock(session) + DAY, 10) == 1
    session.commit()
    (claimed,) = claim(session)
    content = json.loads(claimed.body)
    assert (content["type"], content["data"]["job"]) == ("job.failed", job)
    assert content["data"]["error"]["code"] == "out_of_memory"
