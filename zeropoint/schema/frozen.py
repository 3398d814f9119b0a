"""The base of all settings: immutable data that refuses unknown keys."""

from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticCustomError


class Frozen(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, extra="forbid")


def refusal(reason: str) -> PydanticCustomError:
    """Return the error for a combination of settings that is not allowed, in words for the API's user."""
    return PydanticCustomError("combination", "{reason}", {"reason": reason})
