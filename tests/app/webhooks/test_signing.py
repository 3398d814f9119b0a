"""Signatures, against the package of Standard Webhooks itself."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from app.webhooks.signing import SECRET_PATTERN, headers_of, new_secret

BODY = '{"type":"job.succeeded","data":{"tags":["ä"]}}'.encode()


def test_each_of_two_secrets_verifies_a_message_and_no_other_does() -> None:
    new, former, other = new_secret(), new_secret(), new_secret()
    headers = dict(headers_of("dlv_1", datetime.now(UTC), BODY, [new, former]))
    for secret in (new, former):
        assert Webhook(secret).verify(BODY, headers)["type"] == "job.succeeded"
    with pytest.raises(WebhookVerificationError):
        Webhook(other).verify(BODY, headers)


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp"])
def test_id_and_time_are_signed_too(name: str) -> None:
    secret = new_secret()
    headers = dict(headers_of("dlv_1", datetime.now(UTC), BODY, [secret]))
    changed = str(int(datetime.now(UTC).timestamp()) - 1) if name == "webhook-timestamp" else "dlv_2"
    for body, sent in ((BODY, {**headers, name: changed}), (BODY + b" ", headers)):
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(body, sent)


def test_a_message_of_yesterday_is_not_believed() -> None:
    secret = new_secret()
    headers = dict(headers_of("dlv_1", datetime.now(UTC) - timedelta(days=1), BODY, [secret]))
    with pytest.raises(WebhookVerificationError, match="old"):
        Webhook(secret).verify(BODY, headers)


def test_secrets_differ_and_have_the_form_that_is_asked_of_others() -> None:
    made = {new_secret() for _ in range(100)}
    assert len(made) == 100
    assert all(re.fullmatch(SECRET_PATTERN, secret) for secret in made)


@pytest.mark.parametrize("secret", ["whsec_", "whsec_AAAA", "whsec_" + "A" * 31 + "!", "A" * 44, "whsec_" + "A" * 200])
def test_weak_secrets_are_none(secret: str) -> None:
    assert not re.fullmatch(SECRET_PATTERN, secret)
