import pytest

from app.intake.parsing.strict_json import MAX_DEPTH, read_json


def refuse(detail: str) -> Exception:
    return RuntimeError(detail)


def test_plain_json_is_read() -> None:
    data = b'{"a": [1, 2.5, null, true, "\\"}{[\\\\"]}'
    assert read_json(data, refuse) == {"a": [1, 2.5, None, True, '"}{[\\']}


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"[" * 200_000, "nested"),
        (b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1), "nested"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b"[NaN]", "NaN"),
        (b"[-Infinity]", "Infinity"),
        (b"{", "not valid JSON"),
        (b"", "not valid JSON"),
        (b'["\xff"]', "not valid JSON"),
        (b"9" * 10_000, "not valid JSON"),
    ],
    ids=["brackets", "objects", "key twice", "nan", "infinity", "cut off", "empty", "not utf-8", "long number"],
)
def test_odd_json_is_refused_with_the_reason(data: bytes, why: str) -> None:
    with pytest.raises(RuntimeError, match=why):
        read_json(data, refuse)


def test_brackets_in_strings_are_not_depth() -> None:
    assert read_json(b'["' + b"[" * 1000 + b'"]', refuse) == ["[" * 1000]
