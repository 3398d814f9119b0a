"""OIDC: tokens of an identity provider, checked with its published keys, name a project and a role by their claims."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jwt
from jwt import PyJWK

from app.accounts.caller import Caller, Role
from app.accounts.projects import NAME
from app.accounts.published import ALGORITHMS, ProviderAway, PublishedKeys
from app.errors import Forbidden, Unauthorized, Unavailable
from app.settings import Settings

LEEWAY_SECONDS = 30
MOST_SUBJECT = 255
"""Characters (OpenID Connect Core 1.0, section 2)."""
MOST_ACTOR = 255

_NO_TOKEN = (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError)
"""What reading one raises where it is something else."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Provider:
    """An identity provider: who it is, whom its tokens are for, which claims name project and role, and its keys."""

    issuer: str
    audience: str
    project_claim: str
    role_claim: str
    keys: PublishedKeys

    def knows(self, token: str) -> bool:
        """Return whether a token can be checked, or refused, without waiting for the provider."""
        try:
            return self.keys.knows(_key_id(token))
        except _NO_TOKEN:
            return True

    def caller(self, token: str) -> Caller:
        """Return whom a token names. Raises Unauthorized, Forbidden, and Unavailable while its keys can't be had."""
        try:
            claims = self._claims(token, self.keys.named(_key_id(token)))
        except ProviderAway as error:
            raise _away() from error
        except jwt.ExpiredSignatureError as error:
            raise _refused("The token has expired.") from error
        except _NO_TOKEN as error:
            log.info("a token was refused: %s", type(error).__name__)
            raise _refused("The token is not one of the identity provider for this service.") from error
        return self._caller_of(claims)

    def check(self) -> str | None:
        """Return what is wrong with the provider; None while its keys can be had."""
        try:
            self.keys.check()
        except ProviderAway:
            return "the identity provider does not answer"
        return None

    def _claims(self, token: str, keys: Sequence[PyJWK]) -> dict[str, Any]:
        """Return the claims of a token that one of these keys signed. Raises PyJWTError."""
        for key in keys:
            try:
                return jwt.decode(
                    token,
                    key=key,
                    algorithms=ALGORITHMS,
                    audience=self.audience,
                    issuer=self.issuer,
                    leeway=LEEWAY_SECONDS,
                    options={"require": ["exp", "iss", "aud", "sub"]},
                )
            except (jwt.InvalidSignatureError, jwt.InvalidAlgorithmError):
                continue  # providers may give two keys one id
        raise jwt.InvalidSignatureError

    def _caller_of(self, claims: Mapping[str, Any]) -> Caller:
        project, roles = _at(claims, self.project_claim), _at(claims, self.role_claim)
        if not isinstance(project, str) or not NAME.fullmatch(project):
            raise _not_mapped(self.project_claim, "the name of a project")
        words = roles if isinstance(roles, list) else [roles]
        known = [role for role in Role if role.value in words]
        if not known:
            raise _not_mapped(self.role_claim, f"one of {', '.join(Role)}")
        subject = claims["sub"]
        if not subject.isprintable() or not 0 < len(subject) <= MOST_SUBJECT:
            raise _refused("The token's subject (sub) is empty, too long, or has characters that can't be seen.")
        return Caller(project, known[-1], f"oidc:{subject}"[:MOST_ACTOR])


def provider_of(settings: Settings) -> Provider | None:
    """Return the identity provider that the settings name; None where they name none."""
    if settings.oidc_issuer is None or settings.oidc_audience is None:
        return None
    return Provider(
        settings.oidc_issuer,
        settings.oidc_audience,
        settings.oidc_project_claim,
        settings.oidc_role_claim,
        PublishedKeys(settings.oidc_issuer, settings.oidc_jwks_url),
    )


def _key_id(token: str) -> str | None:
    """Return the id of the key that a token names. Raises PyJWTError."""
    key_id: str | None = jwt.get_unverified_header(token).get("kid")
    return key_id


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
