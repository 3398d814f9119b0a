"""Names in a program: what the files that are written of it can hold, and a refusal can repeat."""

import pytest

from app.intake.parsing.typed import Wrong
from app.intake.program.schema import fqn


@pytest.mark.parametrize(
    "name", ["weight", "a.0.b-c", "a" * 256, "__metadata__.weight", "a.__metadata__", "a/b", "\u0430", "a b.größe"]
)
def test_a_path_of_words_is_a_name(name: str) -> None:
    assert fqn(name) == name


@pytest.mark.parametrize(
    "name", ["", "a" * 257, ".".join("a" * 100), "__metadata__", "a..b", ".a", "a\n", "a\u202e", "it's", 'a"', "a\\", 1]
)
def test_anything_else_is_no_name(name: object) -> None:
    with pytest.raises(Wrong, match="must be a name"):
        fqn(name)
