"""What settings are made of: immutable data that refuses keys it doesn't know."""

from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticCustomError


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def refusal(reason: str) -> PydanticCustomError:
    """A combination that makes no sense, in words that may reach the user."""
    return PydanticCustomError("combination", "{reason}", {"reason": reason})
