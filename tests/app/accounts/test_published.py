"""Keys that a provider publishes: which of them count, and that nobody waits long for a provider that is slow."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jwt
import pytest

from app.accounts import published
from app.accounts.oidc import Provider, provider_of
from app.accounts.published import ProviderAway, PublishedKeys
from app.errors import Unauthorized, Unavailable
from app.settings import Settings
from tests.identity_provider import AUDIENCE, IdentityProvider, identity_provider, private_key
from tests.servers import wait_until

SECRET = b"a secret that everyone can read...."
OCT = {"kty": "oct", "k": base64.urlsafe_b64encode(SECRET).decode().rstrip("="), "kid": "oct"}


@pytest.fixture
def idp() -> Iterator[IdentityProvider]:
    with identity_provider() as running:
        yield running


@pytest.fixture
def provider(idp: IdentityProvider) -> Provider:
    made = provider_of(Settings(oidc_issuer=idp.issuer, oidc_audience=AUDIENCE))
    assert made is not None
    return made


def change(idp: IdentityProvider, monkeypatch: pytest.MonkeyPatch, keys: Callable[[list[Any]], object]) -> None:
    """Let the provider list other keys, made of those that it has."""
    usual = idp.answer

    def answer(path: str) -> dict[str, Any]:
        found = usual(path)
        return found | {"keys": keys(found["keys"])} if "keys" in found else found

    monkeypatch.setattr(idp, "answer", answer)


ODD: list[Any] = [
    "x",
    None,
    [],
    {},
    OCT,
    {"kty": "new"},
    {"kty": "RSA", "kid": "first"},
    {"kty": "RSA", "kid": "first", "n": "!!", "e": "x"},
    {"kty": "RSA", "kid": "first", "alg": ["RS256"], "n": "AQAB", "e": "AQAB"},
    {"kty": "RSA", "kid": [1], "n": "AQAB", "e": "AQAB"},
    {"kty": "RSA", "kid": "first", "alg": "RSA-OAEP", "use": "enc", "n": "AQAB", "e": "AQAB"},
    {"kty": "EC", "kid": "first", "crv": "P-256", "x": "AA", "y": "AA"},
    {"kty": "EC", "kid": "first", "crv": "P-999", "x": "AA", "y": "AA"},
    {"kty": "OKP", "kid": "first", "crv": "X25519", "x": "A" * 43},
    {"kty": ["RSA"], "kid": "first"},
]


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: json.dumps(odd)[:50])
def test_a_key_that_is_none_spoils_no_other(
    idp: IdentityProvider, provider: Provider, monkeypatch: pytest.MonkeyPatch, odd: object
) -> None:
    change(idp, monkeypatch, lambda keys: [odd, *keys])
    assert provider.caller(idp.token()).project == "ours"


@pytest.mark.parametrize("listed", [[OCT], [], None, "x", {"kty": "RSA"}, [None]], ids=str)
def test_without_a_public_key_a_provider_is_no_help(
    idp: IdentityProvider, provider: Provider, monkeypatch: pytest.MonkeyPatch, listed: object
) -> None:
    change(idp, monkeypatch, lambda _: listed)
    with pytest.raises(Unavailable):
        provider.caller(idp.token())
    assert provider.check() is not None


@pytest.mark.parametrize("algorithm", ["HS256", "RS256", "none"])
def test_a_secret_that_is_published_signs_nothing(
    idp: IdentityProvider, provider: Provider, monkeypatch: pytest.MonkeyPatch, algorithm: str
) -> None:
    change(idp, monkeypatch, lambda keys: [OCT, *keys])
    head = base64.urlsafe_b64encode(json.dumps({"alg": algorithm, "kid": "oct"}).encode()).decode().rstrip("=")
    signed = f"{head}.{idp.token().split('.')[1]}"
    signature = base64.urlsafe_b64encode(hmac.digest(SECRET, signed.encode(), hashlib.sha256)).decode().rstrip("=")
    with pytest.raises(Unauthorized):
        provider.caller(f"{signed}.{signature}")


def test_two_keys_may_have_one_id(idp: IdentityProvider, provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    idp.add_key("another")
    change(idp, monkeypatch, lambda keys: [key | {"kid": "same"} for key in keys])
    claims = jwt.decode(idp.token(), options={"verify_signature": False})
    for name in idp.keys:
        assert provider.caller(jwt.encode(claims, idp.keys[name], "RS256", {"kid": "same"})).project == "ours"
    with pytest.raises(Unauthorized):
        provider.caller(jwt.encode(claims, private_key("a stranger's"), "RS256", {"kid": "same"}))


def test_keys_and_tokens_may_have_no_id(
    idp: IdentityProvider, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    idp.add_key("another")
    change(idp, monkeypatch, lambda keys: [{n: v for n, v in key.items() if n != "kid"} for key in keys])
    claims = jwt.decode(idp.token(), options={"verify_signature": False})
    assert provider.caller(jwt.encode(claims, idp.keys["another"], "RS256")).project == "ours"
    with pytest.raises(Unauthorized):
        provider.caller(jwt.encode(claims, private_key("a stranger's"), "RS256"))


@pytest.mark.parametrize("url", ["http://[x", "http://a\0b/", "file:///etc/passwd", "x", "", 5, None, ["http://a"]])
def test_an_address_of_keys_that_is_none_is_no_help(
    idp: IdentityProvider, provider: Provider, monkeypatch: pytest.MonkeyPatch, url: object
) -> None:
    monkeypatch.setattr(idp, "answer", lambda _: {"issuer": idp.issuer, "jwks_uri": url})
    with pytest.raises(Unavailable):
        provider.caller(idp.token())
    assert provider.check() is not None


def test_an_answer_without_an_end_is_no_help(
    idp: IdentityProvider, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(idp, monkeypatch, lambda keys: [*keys, "x" * 2**20])
    with pytest.raises(Unavailable):
        provider.caller(idp.token())


def test_of_very_many_keys_the_first_count(
    idp: IdentityProvider, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(idp, monkeypatch, lambda keys: [*keys, *(keys[0] | {"kid": f"{i}"} for i in range(200))])
    assert provider.caller(idp.token()).project == "ours"
    with pytest.raises(Unauthorized):
        provider.caller(jwt.encode({}, idp.keys["first"], "RS256", {"kid": "199"}))


def slow(idp: IdentityProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the provider answer after everyone's patience."""
    monkeypatch.setattr(published, "FETCH_SECONDS", 0.3)
    usual = idp.answer

    def late(path: str) -> dict[str, Any]:
        time.sleep(1)
        return usual(path)

    monkeypatch.setattr(idp, "answer", late)


def test_nobody_waits_for_a_slow_provider_whose_keys_are_known(
    idp: IdentityProvider, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even while others ask for keys that it does not have."""
    token = idp.token()
    provider.caller(token)
    idp.keys["unknown"] = private_key("a stranger's")
    strange = idp.token("unknown")
    del idp.keys["unknown"]
    slow(idp, monkeypatch)
    monkeypatch.setattr(published, "FRESH_SECONDS", 0)
    monkeypatch.setattr(published, "PAUSE_SECONDS", 0)
    assert provider.knows(token)
    assert not provider.knows(strange)
    with ThreadPoolExecutor(8) as threads:
        refused = [threads.submit(provider.caller, strange) for _ in range(8)]
        began = time.monotonic()
        assert provider.caller(token).project == "ours"
        assert time.monotonic() - began < 0.2
        assert all(isinstance(one.exception(5), Unauthorized | Unavailable) for one in refused)
        assert time.monotonic() - began < 3


def test_keys_that_nobody_asked_about_for_long_are_fetched_before_they_count(
    idp: IdentityProvider, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that the provider has withdrawn meanwhile holds for no token, not even the first."""
    token = idp.token()
    provider.caller(token)
    del idp.keys["first"]
    idp.add_key("next")
    for name in ("FRESH_SECONDS", "OLD_SECONDS", "PAUSE_SECONDS"):
        monkeypatch.setattr(published, name, 0)
    with pytest.raises(Unauthorized):
        provider.caller(token)


def test_a_provider_is_named_while_it_is_away_and_no_longer(
    idp: IdentityProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = PublishedKeys(idp.issuer, None)
    monkeypatch.setattr(published, "PAUSE_SECONDS", 0)
    usual = idp.answer
    monkeypatch.setattr(idp, "answer", lambda _: {})
    with pytest.raises(ProviderAway):
        keys.check()
    monkeypatch.setattr(idp, "answer", usual)

    def answers() -> bool:
        try:
            keys.check()
        except ProviderAway:
            return False
        return True

    wait_until(answers, 5)
