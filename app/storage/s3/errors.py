"""What the errors of a bucket mean to a service that keeps its blobs there."""

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSLError,
)
from botocore.exceptions import ConnectionError as NoConnection

from app.storage.blobs import StorageAway

GONE = frozenset({"NoSuchKey", "404"})
EXISTS = "PreconditionFailed"
NO_RANGE = "InvalidRange"
NO_UPLOAD = "NoSuchUpload"
FULL = frozenset({"QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "InsufficientStorage", "507"})

NO_BUCKET = "the bucket does not exist"
UNKNOWN = "the credentials are not accepted"
FORBIDDEN = "the credentials do not allow what the service does"
ELSEWHERE = "the bucket is in another region: set ZEROPOINT_STORAGE_REGION"
UNCONDITIONAL = "the storage does not offer conditional writes (If-None-Match)"
CLOCK = "the clock of this host differs too much from the storage's"
NO_CREDENTIALS = "no credentials were found"
UNTRUSTED = "the certificate of the endpoint is not accepted"
SILENT = "the endpoint does not answer"
FAILING = "the endpoint answers with errors"

LASTING: Mapping[str, str] = {
    "NoSuchBucket": NO_BUCKET,
    "InvalidBucketName": NO_BUCKET,
    "InvalidAccessKeyId": UNKNOWN,
    "SignatureDoesNotMatch": UNKNOWN,
    "InvalidToken": UNKNOWN,
    "ExpiredToken": UNKNOWN,
    "InvalidClientTokenId": UNKNOWN,
    "AccessDenied": FORBIDDEN,
    "AllAccessDisabled": FORBIDDEN,
    "403": FORBIDDEN,
    "PermanentRedirect": ELSEWHERE,
    "AuthorizationHeaderMalformed": ELSEWHERE,
    "IllegalLocationConstraintException": ELSEWHERE,
    "NotImplemented": UNCONDITIONAL,
    "RequestTimeTooSkewed": CLOCK,
}
"""Codes that stay until somebody changes a setting, a permission or a clock."""


@contextmanager
def storage_errors() -> Iterator[None]:
    """Raise each error of the library as the protocol of storages has it: StorageAway, no room, or no such file."""
    try:
        yield
    except ClientError as error:
        raise _meaning(code_of(error)) from error
    except (NoCredentialsError, PartialCredentialsError, ProfileNotFound) as error:
        raise StorageAway(NO_CREDENTIALS, lasting=True) from error
    except CredentialRetrievalError as error:
        raise StorageAway(NO_CREDENTIALS) from error
    except SSLError as error:
        raise StorageAway(UNTRUSTED) from error
    except (NoConnection, HTTPClientError, IncompleteReadError) as error:
        raise StorageAway(SILENT) from error
    except BotoCoreError as error:
        raise StorageAway(FAILING) from error


def code_of(error: ClientError) -> str:
    """Return the code of an error that the bucket answered with."""
    return str(error.response.get("Error", {}).get("Code", ""))


def _meaning(code: str) -> OSError:
    if code in GONE:
        return FileNotFoundError("There is no such blob.")
    if code in FULL:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return StorageAway(LASTING.get(code, FAILING), lasting=code in LASTING)
