"""Who calls: the middleware that finds the caller, and refuses what its role may not do, before a body is read.

What a role may do stands here alone: reading is a reader's, everything else a submitter's, and keys, the audit trail
and webhooks are an admin's.
"""

import asyncio
import logging
import re
from collections.abc import Callable
from typing import TypeVar

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from app import logs
from app.accounts import keys, projects
from app.accounts.caller import ANYONE, Caller, Role, called_by
from app.accounts.oidc import Provider
from app.accounts.quotas import Quotas, quotas_of, usual_quotas
from app.api.addresses import PROBES, path_of
from app.api.admission import Places
from app.api.dependencies import Services
from app.api.errors import fault_answer
from app.errors import Forbidden, ServiceError, Unauthorized, Unavailable

OPEN = PROBES | {"/openapi.json"}
"""What anybody may read: it tells of no project."""
READING = frozenset({"GET", "HEAD", "OPTIONS"})
OF_ADMINS = re.compile(r"/v1/(keys|audit|webhooks)\b")
"""Beginnings, whatever follows: what is no address at all may be an admin's too."""
TOKENS = 4
"""That are checked at once. Those that may have to wait for the provider have places of their own."""
TOKEN_QUEUE = 200
TOKEN_SECONDS = 5.0

_BEARER = re.compile(r"(?i:bearer) +([!-~]{1,8192})")

T = TypeVar("T")

log = logging.getLogger(__name__)


class Identity:
    """The middleware: whatever is inside of it runs for a caller, and in log lines has its project and actor."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._tokens = Places(TOKENS, TOKEN_QUEUE, TOKEN_SECONDS, _tokens_busy)
        self._strange_tokens = Places(TOKENS, TOKEN_QUEUE, TOKEN_SECONDS, _tokens_busy)
        self._writes: dict[str, asyncio.Task[None]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or path_of(scope) in OPEN:
            await self._app(scope, receive, send)
            return
        services: Services = scope["app"].state.services
        who, quotas = ANYONE, usual_quotas(services.settings)
        try:
            if services.settings.auth == "on":
                who = await self._caller(services, Headers(scope=scope))
                logs.also(project=who.project, actor=who.actor)
                _check_role(who, scope["method"], path_of(scope))
                quotas = await _quotas(services, who.project)
            await services.rates.check(who.project, quotas)
        except Exception as error:
            answer = fault_answer(scope["state"]["request_id"], error)
            await answer(scope, receive, send)
            return
        scope["state"]["quotas"] = quotas
        with called_by(who):
            await self._app(scope, receive, send)

    async def _caller(self, services: Services, headers: Headers) -> Caller:
        sent = headers.getlist("authorization")
        match = _BEARER.fullmatch(sent[0]) if len(sent) == 1 else None
        if match is None:
            raise _missing(unreadable=bool(sent))
        if match[1].startswith(keys.PREFIX):
            return await self._caller_of_key(services, match[1])
        if services.provider is None:
            raise _unknown()
        return await self._caller_of_token(services, services.provider, match[1])

    async def _caller_of_key(self, services: Services, secret: str) -> Caller:
        if not keys.looks_like_one(secret):
            raise _unknown()
        known: keys.Known = await services.admission.reading.run(_with_session, services, keys.known, secret)
        if known.stale and known.key_id not in self._writes:
            # One at a time for each key: a busy database must not get one more write for every request.
            write = asyncio.get_running_loop().create_task(_note_use(services, known.key_id))
            self._writes[known.key_id] = write
            write.add_done_callback(lambda _: self._writes.pop(known.key_id, None))
        return known.caller

    async def _caller_of_token(self, services: Services, provider: Provider, token: str) -> Caller:
        places = self._tokens if provider.knows(token) else self._strange_tokens
        who = await places.run(provider.caller, token)
        if not await services.admission.reading.run(_with_session, services, projects.exists, who.project):
            raise Forbidden(
                "token_without_project",
                f"The token names the project {who.project}, which is not here.",
                "Ask the operator for it: zeropoint projects create.",
            )
        return who


async def _quotas(services: Services, project: str) -> Quotas:
    """Return a project's quotas, looked up every few seconds."""
    if known := services.rates.known(project):
        return known
    read = services.admission.reading.run
    quotas: Quotas = await read(_with_session, services, quotas_of, services.settings, project)
    services.rates.remember(project, quotas)
    return quotas


async def _note_use(services: Services, key_id: str) -> None:
    """Record that a key was used; a busy database is not waited for by anybody."""
    try:
        await services.admission.writing.run(_with_session, services, keys.note_used, key_id)
    except Exception:
        log.info("the last use of the key %s was not recorded", key_id, exc_info=True)


def _check_role(who: Caller, method: str, path: str) -> None:
    needed = Role.READER if method in READING else Role.SUBMITTER
    if OF_ADMINS.match(path):
        needed = Role.ADMIN
    if not who.role.includes(needed):
        raise Forbidden(
            "role_too_low",
            f"This takes the role {needed}, and this caller has {who.role}.",
            f"Ask an admin of the project for a key with the role {needed}.",
        )


def _with_session(services: Services, work: Callable[..., T], *arguments: object) -> T:
    with services.all_projects() as session:
        return work(session, *arguments)


def _missing(*, unreadable: bool) -> ServiceError:
    what = "The Authorization header can't be read." if unreadable else "The request has no Authorization header."
    remedy = "Send Authorization: Bearer zp_…, a key that an admin of your project or the operator makes."
    return Unauthorized("credentials_missing", what, remedy)


def _tokens_busy() -> Unavailable:
    detail = "As many tokens as this service checks at once are being checked, and as many as may wait do."
    return Unavailable("busy", detail, "Ask again; Retry-After says when. API keys work meanwhile.", retry_after=5)


def _unknown() -> Unauthorized:
    return Unauthorized("credentials_refused", "This key is unknown or was revoked.", "Ask an admin for a new one.")
