"""Opens the storage that the settings name, and looks at it once when a process starts."""

import logging

from app.settings import Settings
from app.storage.blobs import Storage, StorageAway
from app.storage.local import LocalStorage, folder_of

SCRATCH_NAME = "storage"
"""Of the folder in the scratch folder where files grow before they go to a storage that is no folder."""

log = logging.getLogger(__name__)


def open_storage(settings: Settings) -> Storage:
    """Return the storage that the settings name; nothing is sent to it.

    Raises ValueError for another URL, OSError where a folder can't be made.
    """
    if settings.storage_url.startswith("s3:"):
        return _open_s3(settings)
    return LocalStorage(folder_of(settings.storage_url))


def check_at_start(storage: Storage) -> None:
    """Raise StorageAway where waiting would not help; log what else keeps blobs from being written."""
    try:
        storage.check()
    except OSError as error:
        if isinstance(error, StorageAway) and error.lasting:
            raise
        log.warning("blobs can't be written now: this process waits for its storage", exc_info=True)


def _open_s3(settings: Settings) -> Storage:
    try:
        from app.storage.s3.bucket import bucket_of  # noqa: PLC0415 - an extra
        from app.storage.s3.storage import S3Storage  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ValueError("This storage needs boto3: pip install 'zeropoint[s3]'.") from error
    return S3Storage(bucket_of(settings), settings.scratch_dir / SCRATCH_NAME)
