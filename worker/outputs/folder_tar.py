"""A Hugging Face folder as one file to download: a tar of artifacts that were checked, written straight to storage."""

import tarfile
from collections.abc import Mapping
from pathlib import Path

from app.storage import Blob, Storage

CHUNK_BYTES = 2**20


def store_tar(paths: Mapping[str, Path], storage: Storage) -> Blob:
    """Store a tar of these files under these names: same files in, same bytes out. Raises OSError."""
    with storage.writer() as writer:
        for name, path in paths.items():
            info = tarfile.TarInfo(name)
            info.size = path.stat().st_size
            writer.write(info.tobuf(tarfile.GNU_FORMAT))
            with path.open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    writer.write(chunk)
            writer.write(bytes(-info.size % tarfile.BLOCKSIZE))
        writer.write(bytes(2 * tarfile.BLOCKSIZE))
        return writer.commit()
