"""Large answers come whole, in pieces that wait for their reader, and are made once."""

import asyncio
from typing import Any

import pytest
from starlette.types import Message

from app.api.answers import PIECE_BYTES, LargeAnswer
from app.api.rendered import Rendered


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES, PIECE_BYTES + 1, 10 * PIECE_BYTES])
def test_an_answer_is_sent_in_pieces_and_whole(size: int) -> None:
    content, sent = bytes(range(256)) * (size // 256) + bytes(size % 256), []

    async def send(message: Message) -> None:
        sent.append(message)

    async def never() -> Message:
        raise AssertionError

    scope: dict[str, Any] = {"type": "http"}
    asyncio.run(LargeAnswer(content, 200)(scope, never, send))
    start, *pieces = sent
    assert dict(start["headers"])[b"content-length"] == str(size).encode()
    assert b"".join(piece["body"] for piece in pieces) == content
    assert [piece["more_body"] for piece in pieces] == [True] * (len(pieces) - 1) + [False]
    assert max(len(piece["body"]) for piece in pieces) <= PIECE_BYTES


def test_answers_that_are_kept_are_bounded_and_those_asked_for_lately_stay() -> None:
    rendered = Rendered(10)
    for name in "abc":
        rendered.keep(name, b"123")
    assert rendered.get("a") == b"123"
    rendered.keep("d", b"1234")
    assert [rendered.get(name) for name in "abcd"] == [b"123", None, b"123", b"1234"]
    rendered.keep("d", b"1")
    rendered.keep("e", b"123")
    assert rendered.get("a") == b"123"
    rendered.keep("huge", b"x" * 11)
    assert [rendered.get(name) for name in ("a", "huge")] == [None, None]
