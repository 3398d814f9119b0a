"""Bodies of uploads that come in parts."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, computed_field

from app.api.addresses import address
from app.api.schemas import Body, FaultBody
from app.uploads.service import UploadRow
from app.uploads.status import ENDED, UploadState


class UploadRefusalBody(Body):
    """Why an upload has no result: what a plain upload would have been answered."""

    code: str
    """The stable code."""
    title: str
    """What the code means."""
    detail: str
    """What was wrong, and where."""
    remedy: str
    """What to do."""
    errors: list[FaultBody]
    """Each place that is wrong, at most 100."""
    more_errors: int | None = None
    """How many further errors there are; null: none."""


class UploadLinksBody(Body):
    self: str
    result: str | None
    """The address of the model or dataset; null before there is one."""


class UploadBody(Body):
    """A model or dataset on its way: received in parts, or fetched, and then checked."""

    id: str
    state: Annotated[UploadState, Field(description=f"Final: {', '.join(sorted(ENDED))}.")]
    purpose: Literal["model", "dataset"]
    """What it becomes."""
    name: str
    """The name that the model or dataset gets."""
    bytes: int | None
    """How many bytes it has; null while that is not known."""
    received_bytes: int
    """How many of them are here, and stay."""
    source: str | None
    """Where the service fetches it; null where a client sends it."""
    created_at: datetime
    """When it was begun."""
    expires_at: datetime
    """Until when it waits for its next part; each part begins that time again."""
    ended_at: Annotated[datetime | None, Field(description="When it ended; null before.")]
    model: Annotated[str | None, Field(description="The id of the model that it became; null before.")]
    dataset: Annotated[str | None, Field(description="The id of the dataset that it became; null before.")]
    error: Annotated[
        UploadRefusalBody | None,
        Field(description="Why it has no result, or why the check has to wait; null where nothing is wrong."),
    ]

    @classmethod
    def of(cls, row: UploadRow) -> "UploadBody":
        """Return the body of a row."""
        results = {row.purpose: row.result_id}
        fields: dict[str, Any] = {name: getattr(row, name) for name in cls.model_fields if hasattr(row, name)}
        refusal = UploadRefusalBody.model_validate(row.refusal) if row.refusal else None
        return cls(**fields, model=results.get("model"), dataset=results.get("dataset"), error=refusal)

    @computed_field
    def links(self) -> UploadLinksBody:
        """Return the addresses of the upload and of what it became."""
        return UploadLinksBody(self=address(f"/v1/uploads/{self.id}"), result=self.result)

    @property
    def result(self) -> str | None:
        """Return the address of what it became."""
        result_id = self.model or self.dataset
        return address(f"/v1/{self.purpose}s/{result_id}") if result_id else None


class UploadPage(Body):
    items: list[UploadBody]
    next_cursor: str | None
