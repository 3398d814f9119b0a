"""OIDC: tokens of an identity provider, checked with its published keys, name a project and a role by their claims."""

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
import jwt
from jwt import PyJWK, PyJWKSet

from app.accounts.caller import Caller, Role
from app.accounts.projects import NAME
from app.errors import Forbidden, Unauthorized, Unavailable
from app.settings import Settings

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Signatures with a public key. The provider's secret ones are out: whoever checks those can also make them."""

FRESH_SECONDS = 300.0
PAUSE_SECONDS = 10.0
"""Between two fetches of keys: tokens with ids that nobody knows must not make us fetch for each of them."""
FETCH_SECONDS = 3.0
MOST_BYTES = 2**20
LEEWAY_SECONDS = 30
MOST_ACTOR = 255

log = logging.getLogger(__name__)


class ProviderAway(Exception):
    """The provider's keys can't be fetched."""


@dataclass
class Provider:
    """An identity provider: who it is, whom its tokens are for, which claims name project and role, and its keys."""

    issuer: str
    audience: str
    jwks_url: str | None
    project_claim: str
    role_claim: str
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _keys: Mapping[str | None, PyJWK] = field(default_factory=dict)
    _fetched: float = float("-inf")
    _tried: float = float("-inf")

    def caller(self, token: str) -> Caller:
        """Return whom a token names. Raises Unauthorized, Forbidden, and Unavailable while its keys can't be had."""
        try:
            header = jwt.get_unverified_header(token)
            key = self._key(header.get("kid"))
            claims = jwt.decode(
                token,
                key=key,
                algorithms=ALGORITHMS,
                audience=self.audience,
                issuer=self.issuer,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except jwt.ExpiredSignatureError as error:
            raise _refused("The token has expired.") from error
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            log.info("a token was refused: %s", type(error).__name__)
            raise _refused("The token is not one of the identity provider for this service.") from error
        return self._caller_of(claims)

    def check(self) -> str | None:
        """Return what is wrong with the provider; None while its keys can be had."""
        try:
            self._refresh(FRESH_SECONDS)
        except ProviderAway:
            return "the identity provider does not answer"
        return None

    def _caller_of(self, claims: Mapping[str, Any]) -> Caller:
        project, roles = _at(claims, self.project_claim), _at(claims, self.role_claim)
        if not isinstance(project, str) or not NAME.fullmatch(project):
            raise _not_mapped(self.project_claim, "the name of a project")
        words = roles if isinstance(roles, list) else [roles]
        known = [role for role in Role if role.value in words]
        if not known:
            raise _not_mapped(self.role_claim, f"one of {', '.join(Role)}")
        return Caller(project, known[-1], f"oidc:{claims['sub']}"[:MOST_ACTOR])

    def _key(self, key_id: str | None) -> PyJWK:
        """Return a key of the provider, fetched again where it is not known: providers change their keys."""
        try:
            self._refresh(FRESH_SECONDS)
            if key_id not in self._keys:
                self._refresh(PAUSE_SECONDS)
        except ProviderAway as error:
            if key_id not in self._keys:
                raise _away() from error
        if key_id not in self._keys:
            raise jwt.InvalidKeyError
        return self._keys[key_id]

    def _refresh(self, older_than: float) -> None:
        """Fetch the keys if those that are here are older than this, one thread at a time. Raises ProviderAway."""
        with self._lock:
            now = time.monotonic()
            if now - self._fetched <= older_than:
                return
            if now - self._tried <= PAUSE_SECONDS:
                if self._fetched < self._tried:
                    raise ProviderAway
                return
            self._tried = now
            try:
                self._keys = {key.key_id: key for key in self._fetch().keys}
            except (httpx.HTTPError, jwt.PyJWTError, ValueError, KeyError) as error:
                log.warning("the identity provider's keys can't be fetched", exc_info=True)
                raise ProviderAway from error
            self._fetched = now = time.monotonic()
            self._tried = now

    def _fetch(self) -> PyJWKSet:
        with httpx.Client(timeout=FETCH_SECONDS, follow_redirects=False, trust_env=False) as client:
            url = self.jwks_url
            if url is None:
                found = _json(client, f"{self.issuer.rstrip('/')}/.well-known/openid-configuration")
                if found.get("issuer") != self.issuer:
                    raise ValueError("The provider's configuration names another issuer.")
                url = str(found["jwks_uri"])
            return PyJWKSet.from_dict(_json(client, url))


def provider_of(settings: Settings) -> Provider | None:
    """Return the identity provider that the settings name; None where they name none."""
    if settings.oidc_issuer is None or settings.oidc_audience is None:
        return None
    return Provider(
        settings.oidc_issuer,
        settings.oidc_audience,
        settings.oidc_jwks_url,
        settings.oidc_project_claim,
        settings.oidc_role_claim,
    )


def _json(client: httpx.Client, url: str) -> dict[str, Any]:
    with client.stream("GET", url) as response:
        response.raise_for_status()
        body = bytearray()
        for chunk in response.iter_bytes():
            body += chunk
            if len(body) > MOST_BYTES:
                raise ValueError("The provider's answer is too long.")
    found: dict[str, Any] = httpx.Response(200, content=bytes(body)).json()
    if not isinstance(found, dict):
        raise ValueError("The provider's answer is no JSON object.")
    return found


def _at(claims: Mapping[str, Any], path: str) -> Any:
    """Return a claim by its name, or by names with dots, such as realm_access.roles; None if it is not there."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for name in path.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _refused(detail: str) -> Unauthorized:
    return Unauthorized("credentials_refused", detail, "Get a fresh token for this service from the identity provider.")


def _not_mapped(claim: str, expected: str) -> Forbidden:
    return Forbidden(
        "token_without_project",
        f"The token's claim {claim} is not {expected}.",
        "Ask the operator which claims name project and role: ZEROPOINT_OIDC_PROJECT_CLAIM and _ROLE_CLAIM say it.",
    )


def _away() -> Unavailable:
    return Unavailable(
        "identity_provider_away",
        "The identity provider's keys can't be had, so tokens can't be checked.",
        "Ask again later; API keys (zp_…) work meanwhile.",
        retry_after=10,
    )
