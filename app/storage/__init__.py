"""Storage of bytes: content-addressed blobs behind one Protocol, opened by URL."""

from app.storage.blobs import Blob, BlobDamaged, BlobWriter, Download, Removed, Storage, StorageAway
from app.storage.local import LocalStorage, folder_of
from app.storage.opening import SCRATCH_NAME, check_at_start, open_storage

__all__ = [
    "SCRATCH_NAME",
    "Blob",
    "BlobDamaged",
    "BlobWriter",
    "Download",
    "LocalStorage",
    "Removed",
    "Storage",
    "StorageAway",
    "check_at_start",
    "folder_of",
    "open_storage",
]
