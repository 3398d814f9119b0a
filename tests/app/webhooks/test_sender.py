"""The sender, with real receivers: signed messages arrive, and a target that is slow or away holds up no other."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from app import metrics
from app.jobs import service
from app.settings import Settings
from app.webhooks.models import Delivery, Webhook
from app.webhooks.sender import FAST_EACH, Sender, rules_of, sending
from app.webhooks.states import DeliveryState
from tests.app.webhooks.conftest import MakeWebhook
from tests.app.webhooks.receiver import Message, receiver
from tests.factories import add_job
from tests.servers import free_port, wait_until

LOOPBACK = {"webhook_private_addresses": "127.0.0.0/8"}


@pytest.fixture
def allowed(settings: Settings) -> Settings:
    return settings.model_copy(update=LOOPBACK)


def cancelled(session: Session, count: int = 1) -> None:
    for _ in range(count):
        service.request_cancel(session, add_job(session).id)


def attempts(outcome: str) -> float:
    value = metrics.OF_API.get_sample_value("zeropoint_webhook_attempts_total", {"outcome": outcome})
    assert value is not None
    return value


def rows(session: Session) -> list[Delivery]:
    session.rollback()
    session.expire_all()
    found = list(session.scalars(select(Delivery).order_by(Delivery.position)))
    session.rollback()
    return found


def states(session: Session) -> set[str]:
    return {row.state for row in rows(session)}


@contextmanager
def sender_of(settings: Settings, sessions: sessionmaker[Session]) -> Iterator[Sender]:
    sender = Sender(sessions, rules_of(settings), timedelta(seconds=60))
    yield sender
    sender.finish(30)


def test_a_message_arrives_signed_and_once(allowed: Settings, session: Session, make_webhook: MakeWebhook) -> None:
    before = attempts("delivered")
    with receiver() as target, sending(allowed):
        made = make_webhook(target.url)
        cancelled(session)
        wait_until(lambda: states(session) == {DeliveryState.DELIVERED})
    (message,) = target.messages
    (row,) = rows(session)
    content = message.verified(made.secret)
    assert (content["type"], content["data"]["job"]) == ("job.cancelled", row.job_id)
    assert content["timestamp"].endswith("+00:00")
    assert (message.id, message.body.decode()) == (row.id, row.body)
    assert (row.attempts, row.last_status, row.last_error) == (1, 204, None)
    assert attempts("delivered") == before + 1


def test_a_failure_is_tried_again_under_the_same_id(
    allowed: Settings, session: Session, sessions: sessionmaker[Session], make_webhook: MakeWebhook
) -> None:
    def fails_first(_message: Message) -> int:
        return 500 if len(target.messages) == 1 else 200

    with receiver(fails_first) as target, sender_of(allowed, sessions) as sender:
        made = make_webhook(target.url)
        cancelled(session)
        sender.look()
        wait_until(lambda: rows(session)[0].last_status == 500)
        (row,) = rows(session)
        assert row.last_error == "The target answered 500; anything but 2xx is a failure."
        assert session.get_one(Webhook, made.row.id).failing_since is not None
        webhooks_due_now(session)
        sender.look()
        wait_until(lambda: states(session) == {DeliveryState.DELIVERED})
        session.rollback()
        assert session.get_one(Webhook, made.row.id, populate_existing=True).failing_since is None
    assert target.ids == [row.id, row.id]
    assert len({message.body for message in target.messages}) == 1


def webhooks_due_now(session: Session) -> None:
    for row in session.scalars(select(Delivery)):
        row.due_at = row.begun_at
    session.commit()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("how", ["away", "silent", "redirects", "private"])
def test_what_is_wrong_with_a_target_is_named(
    how: str, settings: Settings, allowed: Settings, session: Session, make_webhook: MakeWebhook
) -> None:
    """For whoever looks at the deliveries, in words that tell nothing of what is behind the target."""
    words = {
        "away": "Nothing accepts connections",
        "silent": "does not answer in time",
        "redirects": "answered 302",
        "private": "no public address",
    }
    release = threading.Event()
    with receiver() as target, receiver() as secret:
        target.answer = lambda _: 302 if how == "redirects" else int(release.wait(60)) * 200
        target.extra = {"Location": secret.url}
        make_webhook(f"http://127.0.0.1:{free_port()}/" if how == "away" else target.url)
        cancelled(session)
        chosen = allowed.model_copy(update={"lease_seconds": 1})
        if how == "private":
            chosen = chosen.model_copy(update={"webhook_private_addresses": "10.0.0.0/8"})
        with sending(chosen):
            wait_until(lambda: bool(rows(session) and rows(session)[0].last_error))
        release.set()
        (row,) = rows(session)
        assert words[how] in (row.last_error or "")
        assert row.state == DeliveryState.PENDING
        assert secret.messages == []
        assert len(target.messages) >= (how in ("silent", "redirects"))


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_targets_that_hang_hold_up_no_other(allowed: Settings, session: Session, make_webhook: MakeWebhook) -> None:
    """Five hang, each with more to send than there are threads; what goes to the sixth arrives meanwhile."""
    release = threading.Event()
    with ExitStack() as stack:
        stuck = [stack.enter_context(receiver(lambda _: int(release.wait(60)) * 200)) for _ in range(5)]
        good = stack.enter_context(receiver())
        stack.enter_context(sending(allowed))
        for target in stuck:
            make_webhook(target.url)
        cancelled(session, 6)
        wait_until(lambda: all(target.messages for target in stuck))
        make_webhook(good.url)
        began = time.monotonic()
        cancelled(session, 10)
        wait_until(lambda: len(good.messages) == 10)
        seconds = time.monotonic() - began
        assert all(len(target.messages) <= FAST_EACH for target in stuck)
        release.set()
    assert seconds < 9  # each target that hangs takes ten


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_database_that_is_away_for_a_moment_loses_nothing(
    allowed: Settings, session: Session, sessions: sessionmaker[Session], make_webhook: MakeWebhook
) -> None:
    """It was sent, and not recorded: it is sent again under its id when the lease has ended."""
    calls = 0

    def breaks(_message: Message) -> int:
        nonlocal calls
        calls += 1
        sender.sessions = away if calls == 1 else sessions
        return 200

    away: sessionmaker[Session] = sessionmaker(
        sessions.kw["bind"].execution_options(schema_translate_map={None: "nowhere"})
    )
    with receiver(breaks) as target, sender_of(allowed, sessions) as sender:
        make_webhook(target.url)
        cancelled(session)
        sender.look()
        wait_until(lambda: calls == 1 and not sender._under_way)
        sender.sessions = sessions
        assert states(session) == {DeliveryState.PENDING}
        webhooks_due_now(session)
        sender.look()
        wait_until(lambda: states(session) == {DeliveryState.DELIVERED})
    assert len(target.ids) == 2
    assert len(set(target.ids)) == 1


def test_secrets_are_in_no_log_line(
    allowed: Settings, session: Session, make_webhook: MakeWebhook, caplog: pytest.LogCaptureFixture
) -> None:
    with receiver() as target, sending(allowed), caplog.at_level("DEBUG"):
        made = make_webhook(target.url)
        cancelled(session)
        wait_until(lambda: states(session) == {DeliveryState.DELIVERED})
    assert made.secret not in caplog.text
    assert all(made.secret not in json.dumps(str(record.__dict__)) for record in caplog.records)
