"""Names in a program: what the files that are written of it can hold, and a refusal can repeat."""

import pytest

from app.intake.parsing.typed import Wrong
from app.intake.program.schema import fqn


@pytest.mark.parametrize("name", ["weight", "a.0.b-c", "a" * 1024, "__metadata__.weight", "a.__metadata__"])
def test_a_path_of_plain_words_is_a_name(name: str) -> None:
    assert fqn(name) == name


@pytest.mark.parametrize(
    "name", ["", "a" * 1025, ".".join("a" * 1000), "__metadata__", "a..b", "a\n", "a/b", "\u0430", 1]
)
def test_anything_else_is_no_name(name: object) -> None:
    with pytest.raises(Wrong, match="must be a name of letters"):
        fqn(name)
