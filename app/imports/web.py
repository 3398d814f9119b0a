"""Files from the web: redirects are followed to hosts that are allowed too, each checked like the first."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urljoin

from app.imports.rules import ImportRules, invalid, refusals, refused_by_source
from app.outbound import Answer, called, check_url

MOST_REDIRECTS = 5
REDIRECTS = frozenset({301, 302, 303, 307, 308})


@contextmanager
def opened(url: str, rules: ImportRules, until: float, token: str | None = None) -> Iterator[Answer]:
    """Yield the answer of the address at the end of all redirects. Raises Invalid, TooLarge, Unavailable.

    The token is sent to the first host alone.
    """
    origin = None
    for _ in range(MOST_REDIRECTS + 1):
        with refusals(rules):
            target = check_url(url, rules.calls(until))
            rules.check_host(target)
            origin = origin or (target.scheme, target.netloc)
            known = token is not None and origin == (target.scheme, target.netloc)
            headers = {"Authorization": f"Bearer {token}"} if known else {}
            with called("GET", url, rules.calls(until), headers) as answer:
                if answer.status not in REDIRECTS:
                    if answer.status != 200:
                        raise refused_by_source(target.host, answer.status)
                    yield answer
                    return
                url = urljoin(url, answer.headers.get("location", ""))
    raise invalid(f"The source leads on to other addresses more than {MOST_REDIRECTS} times.")


def stream(url: str, rules: ImportRules) -> Iterator[bytes]:
    """Yield the bytes at an address. Raises Invalid, TooLarge, Unavailable."""
    with opened(url, rules, time.monotonic() + rules.seconds) as answer, refusals(rules):
        yield from answer.chunks()
