"""A Hugging Face folder as one file to download: a tar of artifacts that were checked, written straight to storage."""

import tarfile
from collections.abc import Sequence
from pathlib import Path

from app.storage import Blob, Storage

CHUNK_BYTES = 2**20


def store_tar(paths: Sequence[Path], storage: Storage) -> Blob:
    """Store a tar of these files under their own names: same files in, same bytes out. Raises OSError."""
    with storage.writer() as writer:
        for path in paths:
            info = tarfile.TarInfo(path.name)
            info.size = path.stat().st_size
            writer.write(info.tobuf(tarfile.GNU_FORMAT))
            with path.open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    writer.write(chunk)
            writer.write(bytes(-info.size % tarfile.BLOCKSIZE))
        writer.write(bytes(2 * tarfile.BLOCKSIZE))
        return writer.commit()
