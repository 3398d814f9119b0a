"""Calls, and the form of the URLs that they take."""

import re
import ssl
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from ipaddress import ip_address

import httpcore
import httpx

from app.outbound.addresses import Address, is_allowed
from app.outbound.connection import CheckedBackend
from app.outbound.rules import AddressRefused, AnswerTooLong, Rules, TargetAway, refused

MOST_URL = 2048

_NAME = re.compile(r"[A-Za-z0-9._-]{1,255}")


@dataclass(frozen=True)
class Answer:
    """Status, headers (names in lower case) and a body that is read while the call lasts."""

    status: int
    headers: Mapping[str, str]
    _body: Iterable[bytes]
    _most: int

    def chunks(self) -> Iterator[bytes]:
        """Yield the body as it comes, as it was sent: nothing is unpacked. Raises AnswerTooLong, TargetAway."""
        received = 0
        for chunk in self._body:
            received += len(chunk)
            if received > self._most:
                raise AnswerTooLong(f"The answer has more than {self._most} bytes.")
            yield chunk


def check_url(url: str, rules: Rules) -> httpx.URL:
    """Return a URL whose form is allowed; names are resolved when it is called. Raises AddressRefused."""
    try:
        parsed = httpx.URL(url)
        host = parsed.raw_host.decode("ascii")
        literal = _literal(host)
    except (httpx.InvalidURL, UnicodeError, ValueError, TypeError):
        raise AddressRefused("This is not a URL.") from None
    schemes = ("https", "http") if rules.plain else ("https",)
    named = literal is not None or _NAME.fullmatch(host)
    port = 443 if parsed.port is None else parsed.port
    if len(url) > MOST_URL or parsed.scheme not in schemes or not named or not 0 < port < 2**16:
        raise AddressRefused(f"The URL must begin with {' or '.join(f'{scheme}://' for scheme in schemes)} and a host.")
    if parsed.userinfo:
        raise AddressRefused("The URL must hold no user and password.")
    if literal is not None and not is_allowed(literal, rules.private):
        raise refused(host)
    return parsed


@contextmanager
def called(
    method: str, url: str, rules: Rules, headers: Mapping[str, str] | None = None, content: bytes = b""
) -> Iterator[Answer]:
    """Call a URL; yield the answer, whose body can be read inside of the block. Raises OutboundError."""
    target = check_url(url, rules)
    own = {"User-Agent": "zeropoint", "Accept-Encoding": "identity", "Connection": "close"}
    sent = {"Host": target.netloc.decode("ascii"), **own, **(headers or {})}
    backend = CheckedBackend(rules, time.monotonic() + rules.seconds)
    try:
        with (
            httpcore.ConnectionPool(ssl_context=rules.tls or _authorities(), network_backend=backend) as pool,
            pool.stream(
                method,
                httpcore.URL(scheme=target.raw_scheme, host=target.raw_host, port=target.port, target=target.raw_path),
                headers=list(sent.items()),
                content=content,
                extensions={"timeout": dict.fromkeys(("connect", "read", "write"), rules.idle_seconds)},
            ) as response,
        ):
            names = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
            yield Answer(response.status, names, response.iter_stream(), rules.most_bytes)
    except (httpcore.ProtocolError, httpcore.NetworkError) as error:
        raise TargetAway(f"What answers at {target.host} does not speak HTTP, or stopped in the middle.") from error


@cache
def _authorities() -> ssl.SSLContext:
    return httpx.create_ssl_context()


def _literal(host: str) -> Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None
