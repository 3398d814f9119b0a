"""Storage of bytes: content-addressed blobs behind one Protocol, opened by URL."""

from app.storage.blobs import Blob, BlobDamaged, BlobWriter, Removed, Storage
from app.storage.local import LocalStorage, folder_of

__all__ = ["Blob", "BlobDamaged", "BlobWriter", "Removed", "Storage", "folder_of", "open_storage"]


def open_storage(url: str) -> Storage:
    """Return the storage at a URL: `file:` and a folder. Raises ValueError for another scheme."""
    return LocalStorage(folder_of(url))
