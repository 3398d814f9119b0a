"""An API process that is killed while it delivers: every event arrives, under one id."""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from app.accounts.caller import ANYONE, called_by
from app.database import connected
from app.jobs import service
from app.settings import Settings
from app.webhooks import service as webhooks
from app.webhooks.models import Delivery
from tests.app.webhooks.receiver import Message, receiver
from tests.factories import add_job
from tests.servers import api_process, wait_until

EVENTS = 12


@pytest.fixture
def environment(settings: Settings) -> Mapping[str, str]:
    given = {f"ZEROPOINT_{name.upper()}": str(value) for name, value in settings.model_dump().items()}
    own = {"ZEROPOINT_WEBHOOK_PRIVATE_ADDRESSES": "127.0.0.0/8", "ZEROPOINT_LEASE_SECONDS": "4"}
    return {**os.environ, **given, **own}


@pytest.mark.slow
@pytest.mark.own_service
@pytest.mark.parametrize(("database_url", "times"), [("sqlite", 1), ("postgresql", 2)], indirect=["database_url"])
def test_deliveries_survive_kills(
    times: int, environment: Mapping[str, str], settings: Settings, tmp_path: Path, record_property: Any
) -> None:
    """Killed while messages are on their way: some were taken and not recorded, some neither, some not begun."""
    hold, arrived = threading.Event(), threading.Event()

    def holds_the_third(_message: Message) -> int:
        if len(target.messages) >= 3 and not hold.is_set():
            arrived.set()
            hold.wait(60)
        return 204

    with receiver(holds_the_third) as target, connected(settings) as sessions, sessions() as session:
        with called_by(ANYONE):
            secret = webhooks.create(session, target.url, ("job.cancelled",)).secret
        jobs = [add_job(session).id for _ in range(EVENTS)]
        for number in range(times):
            with api_process(environment, tmp_path / f"api{number}.log") as (process_id, _):
                for job in jobs[number::times]:
                    service.request_cancel(session, job)
                assert arrived.wait(60)
                time.sleep(0.2)
                os.kill(process_id, signal.SIGKILL)
        hold.set()
        with api_process(environment, tmp_path / "last.log"):
            wait_until(lambda: _delivered(sessions) == EVENTS)
    contents = [message.verified(secret)["data"]["job"] for message in target.messages]
    assert set(contents) == set(jobs)
    assert len(set(zip(contents, target.ids, strict=True))) == EVENTS
    repeats = Counter(target.ids)
    assert len(repeats) == EVENTS
    assert max(repeats.values()) > 1  # what was under way
    record_property("kills, events, messages", (times, EVENTS, len(target.messages)))


def _delivered(sessions: sessionmaker[Session]) -> int:
    with sessions() as session:
        return len(session.scalars(select(Delivery.id).where(Delivery.state == "delivered")).all())
