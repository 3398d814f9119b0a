"""The keys that an identity provider publishes: fetched in the background, so that a slow provider holds up nobody."""

import json
import logging
import threading
import time
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import jwt
from jwt import PyJWK

from app.outbound import Rules, called, networks_of

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Signatures with a public key. The provider's secret ones are out: whoever checks those can also make them."""

FRESH_SECONDS = 300.0
OLD_SECONDS = 2 * FRESH_SECONDS
"""Of keys that nobody asked about for so long, newer ones are waited for: some may have been withdrawn."""
PAUSE_SECONDS = 10.0
"""Between two fetches: tokens with ids that nobody knows must not make us fetch for each of them."""
FETCH_SECONDS = 3.0
"""For an answer of the provider; nobody waits longer for both."""
MOST_BYTES = 2**20
MOST_KEYS = 100

# An operator names the provider, so it may be anywhere.
_RULES = Rules(FETCH_SECONDS, FETCH_SECONDS, MOST_BYTES, plain=True, private=networks_of("*"))

log = logging.getLogger(__name__)


class ProviderAway(Exception):
    """The provider's keys can't be fetched."""


class PublishedKeys:
    """The public keys of a provider: those at an address, or at the one that its configuration names."""

    def __init__(self, issuer: str, jwks_url: str | None) -> None:
        self._issuer = issuer
        self._jwks_url = jwks_url
        self._keys: tuple[PyJWK, ...] = ()
        self._fetched = self._began = float("-inf")
        self._away = False
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._ended.set()

    def knows(self, key_id: str | None) -> bool:
        """Return whether a token that names this key can be checked without waiting for the provider."""
        return bool(self._named(key_id)) and (self._away or time.monotonic() - self._fetched <= OLD_SECONDS)

    def named(self, key_id: str | None) -> Sequence[PyJWK]:
        """Return the keys of this id, or all of them for None; none where the newest have none. Raises ProviderAway."""
        self._begin(FRESH_SECONDS)
        is_newest = True
        if not self.knows(key_id):
            self._begin(PAUSE_SECONDS)  # providers change their keys
            is_newest = self._ended.wait(FETCH_SECONDS)
        found = self._named(key_id)
        if not found and (self._away or not is_newest):
            raise ProviderAway
        return found

    def check(self) -> None:
        """Look whether keys can be had. Raises ProviderAway."""
        self._begin(FRESH_SECONDS)
        if not self._ended.wait(FETCH_SECONDS) or self._away:
            raise ProviderAway

    def _named(self, key_id: str | None) -> tuple[PyJWK, ...]:
        return tuple(key for key in self._keys if key_id is None or key.key_id == key_id)

    def _begin(self, older_than: float) -> None:
        """Begin to fetch keys if those that are here are older than this; one fetch at a time, with pauses."""
        with self._lock:
            now = time.monotonic()
            fresh = now - self._fetched <= older_than or now - self._began <= PAUSE_SECONDS
            if fresh or not self._ended.is_set():
                return
            thread = threading.Thread(target=self._run, name="provider", daemon=True)
            thread.start()  # or raise, with nothing changed
            self._began = now
            self._ended.clear()

    def _run(self) -> None:
        with self._lock:  # not before it is known that this runs
            pass
        try:
            self._keys = _usable(self._fetch())
            self._fetched, self._away = time.monotonic(), False
        except Exception:  # whatever the provider sent, callers must hear that it is no help
            self._away = True
            log.warning("the identity provider's keys can't be fetched", exc_info=True)
        finally:
            self._ended.set()

    def _fetch(self) -> dict[str, Any]:
        url = self._jwks_url
        if url is None:
            found = _json(f"{self._issuer.rstrip('/')}/.well-known/openid-configuration")
            if found.get("issuer") != self._issuer:
                raise ValueError("The provider's configuration names another issuer.")
            url = str(found["jwks_uri"])
        return _json(url)


def _usable(found: dict[str, Any]) -> tuple[PyJWK, ...]:
    """Return the public keys for signatures; others, and what is no key at all, are left out. Raises ValueError."""
    listed = found.get("keys")
    if not isinstance(listed, list):
        raise ValueError("The provider's answer lists no keys.")
    keys = tuple(filter(None, map(_key_of, listed[:MOST_KEYS])))
    if not keys:
        raise ValueError("The provider's answer has no public key for signatures.")
    return keys


def _key_of(entry: Any) -> PyJWK | None:
    signs = isinstance(entry, dict) and entry.get("use", "sig") == "sig" and entry.get("kty") in ("RSA", "EC", "OKP")
    if not signs or not isinstance(entry.get("kid"), str | None):
        return None
    try:
        key = PyJWK(entry)
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return key if key.algorithm_name in ALGORITHMS else None


def _json(url: str) -> dict[str, Any]:
    with called("GET", url, _RULES, {"Accept": "application/json"}) as answer:
        if answer.status != HTTPStatus.OK:
            raise ValueError(f"The provider answers {answer.status}.")
        found: dict[str, Any] = json.loads(b"".join(answer.chunks()))
    if not isinstance(found, dict):
        raise ValueError("The provider's answer is no JSON object.")
    return found
