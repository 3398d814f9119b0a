"""Names from uploads: everything that can be seen is one; what ends a text, or hides, is none."""

import sys
import unicodedata

import pytest

from app.intake.parsing.names import begins, is_identifier, is_name


def test_of_all_characters_only_those_that_end_a_text_or_can_not_be_seen_are_refused() -> None:
    refused = {character for character in map(chr, range(sys.maxunicode + 1)) if not is_name(character)}
    assert set("\"'\\\0\n\r\x7f\x85\u2028\u202e\u200b\ud800") <= refused
    categories = {unicodedata.category(character) for character in refused - set("\"'\\")}
    assert categories == {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"}
    assert is_name(" ")


@pytest.mark.parametrize("value", ["", "a" * 257, "__metadata__", None, 1, b"a", ["a"]])
def test_other_values_are_no_names(value: object) -> None:
    assert not is_name(value)


@pytest.mark.parametrize("word", ["größe", "名前", "x_1", "self"])
def test_words_that_python_reads_as_they_are_written_are_identifiers(word: str) -> None:
    assert is_identifier(word)


@pytest.mark.parametrize("word", ["class", "None", "ﬁne", "e\u0301", "ｘ", "1x", "a b", "", 1, "my-layer"])
def test_other_words_are_none(word: object) -> None:
    assert not is_identifier(word)


def test_a_message_shows_the_beginning_without_what_could_mean_something() -> None:
    assert begins("größe <b>\n'x'" + "y" * 100) == "größe ?b???x?" + "y" * 27 + "…"
    assert begins(7) == ""
