"""Names from uploads: of parameters, modules, keys of dicts and tensors of datasets, as their users spell them.

A name is text that is shown and stored, and never a path. torch writes some names into Python source between quotes,
and some as they are (`self.weight`, the arguments of a function), so these are checked more strictly.
"""

import keyword
import unicodedata

MOST_CHARACTERS = 256
RULE = f"at most {MOST_CHARACTERS} characters that can be seen, without quotes and backslashes, and not __metadata__"
"""What a name must be, in words."""

_MOST_SHOWN = 40
_QUOTING = frozenset("\"'\\")
_RESERVED = "__metadata__"
"""What safetensors calls its own entry."""


def is_name(value: object) -> bool:
    """Return whether it can be the name of a tensor or a key: no character of it ends a text or hides."""
    return (
        type(value) is str
        and 0 < len(value) <= MOST_CHARACTERS
        and value.isprintable()
        and _QUOTING.isdisjoint(value)
        and value != _RESERVED
    )


def begins(value: object) -> str:
    """Return the beginning of what should be a name, for a message; what could mean something elsewhere becomes "?"."""
    text = value[: _MOST_SHOWN + 1] if isinstance(value, str) else ""
    plain = "".join(character if character.isalnum() or character in " ._:/+-" else "?" for character in text)
    return plain if len(plain) <= _MOST_SHOWN else f"{plain[:_MOST_SHOWN]}…"


def is_identifier(value: object) -> bool:
    """Return whether torch can write it as an identifier; Python reads one that is not normalized as another."""
    return (
        type(value) is str
        and value.isidentifier()
        and not keyword.iskeyword(value)
        and (value.isascii() or unicodedata.normalize("NFKC", value) == value)
    )
