"""Bounds on the pieces of a request: the ordinary passes, whatever its size, and what costs too much is found early."""

import time

import h11
import pytest

from app.api.framing import FREE_CHUNKS, LEAST_CHUNK_BYTES, MOST_FIELDS, MOST_HEAD_BYTES, BoundedHttp, TooFragmented

LINE = b"POST / HTTP/1.1\r\nHost: x\r\n"
CHUNKED = LINE + b"Transfer-Encoding: chunked\r\n\r\n"


def events(*received: bytes) -> list[str]:
    """Return the names of all events."""
    connection, names = BoundedHttp(), []
    for data in received:
        connection.receive_data(data)
        while (event := connection.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
            names.append(type(event).__name__)
    return names


def chunk(size: int) -> bytes:
    return b"%x\r\n%s\r\n" % (size, b"x" * size)


@pytest.mark.parametrize(
    "received",
    [
        [LINE + b"Content-Length: 3\r\n\r\n", b"abc"],
        [LINE + b"a: b\r\n" * (MOST_FIELDS - 3) + b"\r\n"],
        [LINE + b"a: " + b"b" * (MOST_HEAD_BYTES - 100), b"\r\n\r\n"],
        [CHUNKED, *[chunk(1)] * FREE_CHUNKS, b"0\r\n\r\n"],
        [CHUNKED + chunk(LEAST_CHUNK_BYTES) * (2 * FREE_CHUNKS) + b"0\r\n\r\n"],
        [CHUNKED + chunk(2**17) + chunk(1) * FREE_CHUNKS + b"0\r\n\r\n"],
        [LINE + b"Content-Length: 200000\r\n\r\n" + b"\n" * 200_000],
        [CHUNKED + chunk(100_000), chunk(100_000), b"0\r\n\r\n"],
    ],
)
def test_ordinary_requests_pass(received: list[bytes]) -> None:
    names = events(*received)
    assert (names[0], names[-1]) == ("Request", "EndOfMessage")


@pytest.mark.parametrize(
    "received",
    [
        [LINE + b"a: b\r\n" * 10_000 + b"\r\n"],
        [LINE, *[b"a: b\r\n"] * (MOST_FIELDS + 1)],
        [LINE + b"a:b\n" * 10_000 + b"\n"],
        [LINE + b"a: " + b"b" * MOST_HEAD_BYTES + b"\r\n\r\n"],
        [b"GET /" + b"b" * 2**20],
        [CHUNKED + chunk(1) * 100_000],
        [CHUNKED, *[chunk(1) * 10] * 200],
        [CHUNKED + chunk(LEAST_CHUNK_BYTES // 2) * (2 * FREE_CHUNKS)],
    ],
)
def test_what_is_cut_too_small_is_refused_at_once(received: list[bytes]) -> None:
    began = time.process_time()
    with pytest.raises(TooFragmented):
        events(*received)
    assert time.process_time() - began < 0.2
