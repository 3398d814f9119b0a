from collections.abc import Callable

import pytest
from sqlalchemy.orm import Session

from app.accounts.caller import called_by
from app.webhooks import service
from app.webhooks.outbox import ENDS
from app.webhooks.service import NewSecret
from tests.factories import member_of

MakeWebhook = Callable[..., NewSecret]


@pytest.fixture
def make_webhook(session: Session) -> MakeWebhook:
    """Make a webhook of a project, as an admin of it would."""

    def make(url: str, project: str = "default", events: tuple[str, ...] = ENDS) -> NewSecret:
        with called_by(member_of(project)):
            return service.create(session, url, events)

    return make
