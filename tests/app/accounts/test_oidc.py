"""Tokens of an identity provider: whom they name, and everything that makes one not hold."""

import base64
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from app.accounts import published
from app.accounts.caller import Role
from app.accounts.oidc import Provider, provider_of
from app.errors import Forbidden, ServiceError, Unauthorized, Unavailable
from app.settings import Settings
from tests.identity_provider import AUDIENCE, IdentityProvider, identity_provider, private_key


@pytest.fixture
def idp() -> Iterator[IdentityProvider]:
    with identity_provider() as provider:
        yield provider


def provider(idp: IdentityProvider, **settings: Any) -> Provider:
    named: dict[str, Any] = {"oidc_issuer": idp.issuer, "oidc_audience": AUDIENCE, **settings}
    made = provider_of(Settings(**named))
    assert made is not None
    return made


def test_without_settings_there_is_no_provider() -> None:
    assert provider_of(Settings()) is None


def test_a_token_names_project_role_and_subject(idp: IdentityProvider) -> None:
    who = provider(idp).caller(idp.token(sub="mara"))
    assert (who.project, who.role, who.actor) == ("ours", Role.SUBMITTER, "oidc:mara")


def test_keys_may_have_an_address_of_their_own(idp: IdentityProvider) -> None:
    assert provider(idp, oidc_jwks_url=f"{idp.issuer}/keys").caller(idp.token()).project == "ours"
    assert idp.asked == 1


@pytest.mark.parametrize(
    ("roles", "expected"),
    [(["reader", "admin"], Role.ADMIN), (["other", "reader"], Role.READER), ("admin", Role.ADMIN)],
)
def test_of_several_roles_the_one_that_may_most_counts(idp: IdentityProvider, roles: object, expected: Role) -> None:
    assert provider(idp).caller(idp.token(zeropoint_role=roles)).role == expected


def test_claims_are_found_under_names_with_dots(idp: IdentityProvider) -> None:
    made = provider(idp, oidc_project_claim="https://example.org/team", oidc_role_claim="realm_access.roles")
    claims: dict[str, Any] = {"https://example.org/team": "vision", "realm_access": {"roles": ["reader"]}}
    assert made.caller(idp.token(**claims)).project == "vision"


WRONG: dict[str, dict[str, Any]] = {
    "expired": {"exp": time.time() - 3600},
    "not yet": {"nbf": time.time() + 3600},
    "another issuer": {"iss": "https://elsewhere.example"},
    "another audience": {"aud": "somebody else"},
    "no audience": {"aud": None},
    "no end": {"exp": None},
    "no subject": {"sub": None},
    "an end that is no time": {"exp": "soon"},
    "an end without an end": {"exp": float("inf")},
    "a subject of nothing": {"sub": ""},
    "a subject with lines": {"sub": "someone\nelse"},
    "a subject that no database keeps": {"sub": "some\0one"},
    "a subject that is no text": {"sub": "\ud800"},
    "a subject without an end": {"sub": "x" * 256},
}


@pytest.mark.parametrize("claims", WRONG.values(), ids=WRONG)
def test_a_token_with_wrong_claims_is_refused(idp: IdentityProvider, claims: dict[str, Any]) -> None:
    with pytest.raises(Unauthorized):
        provider(idp).caller(idp.token(**claims))


def test_a_token_that_another_key_signed_is_refused(idp: IdentityProvider) -> None:
    with pytest.raises(Unauthorized):
        provider(idp).caller(idp.token(signed_with=private_key("a stranger's")))


def test_the_public_key_is_no_secret_to_sign_with(idp: IdentityProvider) -> None:
    """A token signed by HMAC with the public key as its secret, or not at all, names nobody."""
    public = idp.keys["first"].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    forged = idp.token(signed_with=base64.b64encode(public), algorithm="HS256")
    head = base64.urlsafe_b64encode(json.dumps({"alg": "none", "kid": "first"}).encode()).rstrip(b"=").decode()
    bare = f"{head}.{idp.token().split('.')[1]}."
    for token in (forged, bare):
        with pytest.raises(Unauthorized):
            provider(idp).caller(token)


KEY_IDS: list[Any] = [[], ["first"], {}, 5, None, True, "", "\0", "x" * 5000, "../first", "' OR 1=1"]
HEADS: list[dict[str, Any]] = [
    *({"kid": key_id} for key_id in KEY_IDS),
    {"jku": "http://127.0.0.1:9/keys"},
    {"x5u": "http://127.0.0.1:9/"},
    {"crit": ["b64"], "b64": False},
    {"alg": []},
]


@pytest.mark.parametrize("head", HEADS, ids=lambda head: str(head)[:30])
def test_a_head_that_says_something_odd_is_refused(idp: IdentityProvider, head: dict[str, Any]) -> None:
    _, claims, signature = idp.token(signed_with=private_key("a stranger's")).split(".")
    written = json.dumps({"alg": "RS256", "kid": "first"} | head).encode()
    token = f"{base64.urlsafe_b64encode(written).rstrip(b'=').decode()}.{claims}.{signature}"
    made = provider(idp)
    made.knows(token)
    with pytest.raises(Unauthorized):
        made.caller(token)


@pytest.mark.parametrize("token", ["", "a.b", "a.b.c", "e30.e30.", "é", "eyJhbGciOiJSUzI1NiJ9..", "." * 100])
def test_what_is_no_token_is_refused(idp: IdentityProvider, token: str) -> None:
    with pytest.raises(Unauthorized):
        provider(idp).caller(token)


NOT_MAPPED: list[tuple[str, Any]] = [
    ("zeropoint_project", None),
    ("zeropoint_project", 7),
    ("zeropoint_project", ""),
    ("zeropoint_project", "No Name"),
    ("zeropoint_project", "a/b"),
    ("zeropoint_project", ["ours"]),
    ("zeropoint_role", None),
    ("zeropoint_role", "owner"),
    ("zeropoint_role", []),
    ("zeropoint_role", {"admin": True}),
    ("zeropoint_role", 3),
]


@pytest.mark.parametrize("claims", [{name: value} for name, value in NOT_MAPPED], ids=str)
def test_a_token_without_project_or_role_is_refused(idp: IdentityProvider, claims: dict[str, Any]) -> None:
    with pytest.raises(Forbidden) as refused:
        provider(idp).caller(idp.token(**claims))
    assert refused.value.code == "token_without_project"


def test_keys_are_fetched_once_and_again_for_a_new_one(idp: IdentityProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    made = provider(idp)
    for _ in range(3):
        made.caller(idp.token())
    assert idp.asked == 2
    idp.add_key("second")
    monkeypatch.setattr(published, "PAUSE_SECONDS", 0)
    assert made.caller(idp.token("second")).project == "ours"


def test_tokens_with_unknown_keys_do_not_make_us_fetch_for_each(idp: IdentityProvider) -> None:
    made = provider(idp)
    made.caller(idp.token())
    asked = idp.asked
    stranger = private_key("a stranger's")
    idp.keys["unknown"] = stranger
    token = idp.token("unknown")
    del idp.keys["unknown"]
    for _ in range(20):
        with pytest.raises(Unauthorized):
            made.caller(token)
    assert idp.asked == asked


def test_a_provider_that_is_away_is_named_and_keys_that_are_known_still_hold(idp: IdentityProvider) -> None:
    made, new = provider(idp), provider(idp)
    made.caller(idp.token())
    idp.server.shutdown()
    idp.server.server_close()
    assert made.caller(idp.token()).project == "ours"
    with pytest.raises(Unavailable) as refused:
        new.caller(idp.token())
    assert refused.value.code == "identity_provider_away"
    assert refused.value.retry_after
    assert new.check() == "the identity provider does not answer"


@pytest.mark.parametrize("answer", [{"issuer": "https://other.example", "jwks_uri": "x"}, {}, {"keys": []}])
def test_a_provider_that_answers_something_else_counts_as_away(
    idp: IdentityProvider, monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any]
) -> None:
    monkeypatch.setattr(idp, "answer", lambda _: answer)
    with pytest.raises(ServiceError) as refused:
        provider(idp).caller(idp.token())
    assert refused.value.code == "identity_provider_away"
