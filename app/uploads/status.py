"""The states of an upload that comes in parts."""

from enum import StrEnum


class UploadState(StrEnum):
    """Receiving from a client, or fetching from a source; then checking; then one of the others."""

    RECEIVING = "receiving"
    FETCHING = "fetching"
    CHECKING = "checking"
    SUCCEEDED = "succeeded"
    REFUSED = "refused"
    FAILED = "failed"
    EXPIRED = "expired"


WORK = frozenset({UploadState.FETCHING, UploadState.CHECKING})
"""What a process of the API does by itself, under a lease."""
ENDED = frozenset({UploadState.SUCCEEDED, UploadState.REFUSED, UploadState.FAILED, UploadState.EXPIRED})
"""Of these, only a failed one can go on: its bytes are here, and the check can be asked for again."""
WITH_PARTS = frozenset(UploadState) - ENDED | {UploadState.FAILED}
"""Bytes of it are stored."""
