"""What holds at every address: which methods it has, HEAD for each GET, OPTIONS, and no query key that nobody knows.

Addresses in answers begin with the prefix at which a proxy offers this service (`ZEROPOINT_ROOT_PATH`).
"""

import re
from collections import Counter
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Self

from fastapi import Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.datastructures import QueryParams
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.errors import method_refused, no_route, refusal_answer
from app.errors import MOST_FAULTS, Fault, Invalid
from zeropoint.schema.faults import MOST_NAME
from zeropoint.schema.layer_patterns import nearest

_prefix: ContextVar[str] = ContextVar("prefix", default="")
"""Of the request that is answered; bodies take it from here, however deep in an answer they are."""

PROBES = frozenset({"/healthz", "/readyz", "/metrics"})
"""What orchestrators and Prometheus ask for every few seconds."""
ORDER = ("GET", "HEAD", "POST", "PATCH", "DELETE", "OPTIONS")

_VISIBLE = re.compile(r"[!-~]+")
"""Of paths that there are. Routes are looked for with `$`, which a line break may follow: /v1/keys%0A is no address."""


def address(path: str) -> str:
    """Return an address of this service as its clients call it: with the prefix of the proxy before it."""
    return _prefix.get() + path


def path_of(scope: Scope) -> str:
    """Return the path of a request without the prefix, whether the proxy removed that or not."""
    path: str = scope["path"]
    inner = path.removeprefix(scope["root_path"])
    return inner if inner.startswith("/") else path


@dataclass(frozen=True)
class Address:
    """A method at some paths, and the query keys that it knows; None: it looks at none, and refuses none."""

    paths: re.Pattern[str]
    template: str
    method: str
    keys: frozenset[str] | None

    @classmethod
    def of(cls, route: BaseRoute) -> list[Self]:
        """Return the addresses of a route."""
        if not isinstance(route, Route):
            return []
        keys = _query_keys(route.dependant) if isinstance(route, APIRoute) else None
        return [cls(route.path_regex, route.path, method, keys) for method in route.methods or ()]


class Prefix:
    """The middleware that gives requests the path at which a proxy offers this service; it is outside of all others."""

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self._app = app
        self._path = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["root_path"] = self._path
            _prefix.set(self._path)
        await self._app(scope, receive, send)


class Addresses:
    """The middleware, for the addresses of some routes."""

    def __init__(self, app: ASGIApp, routes: Iterable[BaseRoute]) -> None:
        self._app = app
        self._addresses = [address for route in routes for address in Address.of(route)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = path_of(scope)
        if not _VISIBLE.fullmatch(path):
            answer = refusal_answer(scope["state"]["request_id"], no_route(scope["method"], path))
            await answer(scope, receive, send)
            return
        here = self._at(path)
        app, method = self._app, scope["method"]
        if here:
            scope["state"]["route"] = next(iter(here.values())).template
        if here and method not in here:
            if method == "HEAD" and "GET" in here:
                # The server, which has the scope as it was, sends no body; what never ends by itself has to know.
                scope = {**scope, "method": "GET", "head": True}
            else:
                app = _other_method(scope, _allowed(here))
        if refusal := _refused_query(scope, here):
            app = refusal_answer(scope["state"]["request_id"], refusal)
        await app(scope, receive, send)

    def _at(self, path: str) -> dict[str, Address]:
        return {address.method: address for address in self._addresses if address.paths.match(path)}


def _query_keys(dependant: Dependant) -> frozenset[str]:
    own = frozenset(field.alias for field in dependant.query_params)
    return own.union(*map(_query_keys, dependant.dependencies))


def _allowed(here: Iterable[str]) -> list[str]:
    methods = {*here, "OPTIONS", *(["HEAD"] if "GET" in here else [])}
    return sorted(methods, key=ORDER.index)


def _other_method(scope: Scope, allowed: list[str]) -> Response:
    """Answer OPTIONS with the methods of an address, and refuse all other methods that it doesn't have."""
    if scope["method"] == "OPTIONS":
        return Response(status_code=204, headers={"Allow": ", ".join(allowed)})
    return method_refused(scope["state"]["request_id"], scope["method"], path_of(scope), allowed)


def _refused_query(scope: Scope, here: dict[str, Address]) -> Invalid | None:
    """Return the refusal of a query with keys that the address doesn't know, or with one twice."""
    chosen = here.get(scope["method"])
    if chosen is None or chosen.keys is None or not scope["query_string"]:
        return None
    counts = Counter(key for key, _ in QueryParams(scope["query_string"]).multi_items())
    wrong = [key for key, times in counts.items() if key not in chosen.keys or times > 1]
    if not wrong:
        return None
    faults = [_query_fault(key, chosen.keys) for key in wrong[:MOST_FAULTS]]
    return Invalid(
        "request_invalid",
        "; ".join(f"{fault.pointer} {fault.detail}" for fault in faults[:3]) + ".",
        f"Known here: {', '.join(sorted(chosen.keys)) or 'no query key at all'}.",
        faults,
        more_faults=len(wrong) - len(faults),
    )


def _query_fault(key: str, known: frozenset[str]) -> Fault:
    shown = "".join(character if character.isprintable() else "?" for character in key[:MOST_NAME])
    pointer = "/query/" + shown.replace("~", "~0").replace("/", "~1")
    return Fault(pointer, "is given twice" if key in known else f"is not a known key{nearest(key, known)}")
