"""The kinds of errors of the service. Domain code raises kinds; only app/api/errors.py knows status numbers.

    ServiceError
    ├── Malformed     the request can't be read
    ├── Unauthorized  nobody knows who asks
    ├── Forbidden     the one who asks may not do this
    ├── NotFound      the resource does not exist
    ├── Gone          it was here, and is over
    ├── Conflict      not possible in the current state
    ├── TooLarge      a limit is exceeded
    ├── TooSlow       it did not come in time
    ├── WrongType     a kind of content that is not accepted
    ├── TooMany       more than a project may have or do
    ├── WrongVersion  a version of a protocol that is not spoken here
    ├── Damaged       a part of a body is not what it was announced to be
    ├── Invalid       readable, but the content is refused
    ├── Unavailable   not available now
    └── StorageFull   no room to keep it

A code is stable and has one title; docs/reference/errors.md lists each with its cause and remedy.
"""

from collections.abc import Sequence
from dataclasses import dataclass

TITLES = {
    "architecture_unsupported": "This network is not supported",
    "archive_invalid": "The archive can't be read",
    "artifact_not_found": "No such artifact",
    "body_too_large": "The body is too large",
    "body_too_slow": "The body did not come in time",
    "busy": "There is too much to do now",
    "checkpoint_does_not_fit": "The weights do not fit the network",
    "checkpoint_invalid": "The Hugging Face folder can't be used",
    "checksum_mismatch": "The part arrived damaged",
    "checksum_unsupported": "The checksum can't be read",
    "content_encoding_unsupported": "Compressed bodies are not accepted",
    "content_type_unsupported": "This content type is not accepted",
    "credentials_missing": "This service asks who calls",
    "credentials_refused": "These credentials do not hold",
    "cursor_invalid": "The cursor can't be read",
    "database_busy": "The database is busy",
    "database_unavailable": "The database is away",
    "dataset_does_not_fit": "The dataset doesn't fit the model",
    "dataset_in_use": "A job needs this dataset",
    "dataset_invalid": "The dataset can't be used",
    "dataset_not_found": "No such dataset",
    "dataset_required": "This recipe needs a dataset",
    "delivery_not_found": "No such delivery",
    "digest_mismatch": "The bytes are not the ones that were announced",
    "digest_unsupported": "The digest can't be read",
    "head_too_slow": "The request did not come in time",
    "idempotency_key_reused": "The idempotency key belongs to another request",
    "identity_provider_away": "The identity provider is away",
    "import_not_allowed": "The service does not fetch this",
    "internal_error": "The service failed",
    "job_active": "The job has not ended",
    "job_finished": "The job has ended",
    "job_not_found": "No such job",
    "job_not_queued": "The job waits no more",
    "json_malformed": "The JSON can't be read",
    "key_ended": "The key holds no more",
    "key_not_found": "No such key",
    "method_not_allowed": "This method is not allowed here",
    "model_format_unsupported": "This kind of model file is not accepted",
    "model_in_use": "A job needs this model",
    "model_not_found": "No such model",
    "multipart_invalid": "The form can't be read",
    "no_such_worker": "No worker has this device",
    "non_finite_samples": "The dataset holds NaN or infinity",
    "non_finite_weights": "The weights hold NaN or infinity",
    "not_ready": "The service can't do work now",
    "operator_unsupported": "The program calls an operator that is not accepted",
    "precondition_failed": "A condition of the request does not hold",
    "preset_not_found": "No such preset",
    "program_invalid": "The exported program can't be used",
    "project_exists": "There is such a project",
    "project_invalid": "This can't be the name of a project",
    "project_not_found": "No such project",
    "quota_exceeded": "The project has or does as much as it may",
    "range_not_satisfiable": "The range lies outside the artifact",
    "rate_exceeded": "The project asks too often",
    "rates_away": "Requests can't be counted",
    "recipe_does_not_fit": "The recipe does not fit the form of the model",
    "recipe_matches_nothing": "The recipe names something that the model doesn't have",
    "recipe_or_preset": "A job needs a recipe or a preset",
    "recipe_too_demanding": "Checking the recipe takes too much",
    "report_not_ready": "There is no report yet",
    "request_invalid": "The request is not valid",
    "request_unreadable": "The request can't be read",
    "role_too_low": "This role may not do that",
    "route_not_found": "No such route",
    "source_invalid": "This names nothing that can be fetched",
    "source_refused": "The source does not give the file",
    "source_unavailable": "The source does not answer",
    "stopping": "This process stops",
    "storage_away": "The storage is away",
    "storage_full": "There is no room left for this file",
    "sweep_invalid": "These recipes can't be compared in one sweep",
    "sweep_not_found": "No such sweep",
    "token_without_project": "The token names no project of this service",
    "transformers_missing": "Hugging Face folders are not accepted here",
    "tus_version_unsupported": "This version of tus is not spoken here",
    "upload_check_failed": "The upload could not be checked",
    "upload_empty": "The upload is empty",
    "upload_ended": "The upload has ended",
    "upload_expired": "The upload was not finished in time",
    "upload_length_exceeded": "The part is longer than what is left of the upload",
    "upload_metadata_invalid": "The metadata of the upload can't be used",
    "upload_not_found": "No such upload",
    "upload_offset_mismatch": "The upload ends elsewhere",
    "upload_too_demanding": "The upload takes too much to read",
    "upload_too_large": "The upload is too large",
    "upload_too_many_parts": "The upload came in too many parts",
    "webhook_not_found": "No such webhook",
    "webhook_url_refused": "This address is not called",
    "webhooks_too_many": "There are too many webhooks",
    "weights_invalid": "The weights can't be used",
}


MOST_FAULTS = 100
"""How many faults an answer lists; a request can have thousands."""


@dataclass(frozen=True)
class Fault:
    """One of the errors in a request; `pointer` is a JSON pointer into the request body."""

    pointer: str
    detail: str


class ServiceError(Exception):
    """A refusal that the caller can act on: stable code, title, detail (what and where), remedy (what to do).

    Of many faults the first MOST_FAULTS are kept, and the number of the others.
    """

    retry_after: int | None = None

    def __init__(
        self, code: str, detail: str, remedy: str, faults: Sequence[Fault] = (), *, more_faults: int = 0
    ) -> None:
        super().__init__(f"{detail} {remedy}")
        self.code = code
        self.title = TITLES[code]
        self.detail = detail
        self.remedy = remedy
        self.faults = tuple(faults[:MOST_FAULTS])
        self.more_faults = more_faults + len(faults) - len(self.faults)


class Malformed(ServiceError):
    """The request can't be read."""


class Unauthorized(ServiceError):
    """Nobody knows who asks."""


class Forbidden(ServiceError):
    """The one who asks may not do this."""


class NotFound(ServiceError):
    """The resource does not exist."""


class Gone(ServiceError):
    """It was here, and is over."""


class Conflict(ServiceError):
    """Not possible in the current state."""


class TooLarge(ServiceError):
    """A limit is exceeded."""


class TooSlow(ServiceError):
    """It did not come in time."""


class WrongType(ServiceError):
    """A kind of content that is not accepted."""


class WrongVersion(ServiceError):
    """A version of a protocol that is not spoken here."""


class Damaged(ServiceError):
    """A part of a body is not what it was announced to be."""


class Invalid(ServiceError):
    """Readable, but the content is refused."""


class Later(ServiceError):
    """Not now; `retry_after` says in how many seconds it may be."""

    def __init__(
        self, code: str, detail: str, remedy: str, faults: Sequence[Fault] = (), *, retry_after: int | None = None
    ) -> None:
        super().__init__(code, detail, remedy, faults)
        self.retry_after = retry_after


class Unavailable(Later):
    """Not available now."""


class TooMany(Later):
    """More than a project may have or do."""


class StorageFull(ServiceError):
    """No room to keep it."""
