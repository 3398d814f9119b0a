"""Blobs in a bucket: files grow in a local folder, and are sent when they are committed.

Only then is the digest known that names them, and only then have they passed the gate, which reads a local file.
"""

import hashlib
import time
from collections.abc import Callable, Generator
from contextlib import closing
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from app.storage import garbage as local_garbage
from app.storage.blobs import CHUNK_BYTES, Blob, BlobWriter, Download, Pause, Referenced, Removed, StorageAway
from app.storage.s3 import garbage
from app.storage.s3.bucket import CHECK, Bucket
from app.storage.s3.errors import NO_RANGE, code_of, storage_errors
from app.storage.s3.generations import BLOBS, STAMP, find, new_key
from app.storage.s3.sending import send
from app.storage.writing import GrowingFile, copy_checked, read_chunks

MOST_CUTS = 3
"""How often in a row a download may break off before it fails."""
CUT_PAUSE_SECONDS = 0.2
DEAD_SECONDS = 60.0
"""Between the creation of a file and its lock there is less."""
MOST_KEYS = 10_000


class S3Writer(GrowingFile):
    """A local file that becomes an object."""

    def __init__(self, storage: "S3Storage", folder: Path) -> None:
        super().__init__(folder)
        self._storage = storage

    def commit(self) -> Blob:
        blob = Blob(self.sha256, self.size)
        self._storage.send(self.path, blob)
        self.abort()
        return blob


class S3Storage:
    """Blobs in a bucket, of which several services may have a prefix each."""

    def __init__(self, bucket: Bucket, folder: Path) -> None:
        self._bucket = bucket
        self._folder = folder
        self._pause: Pause = lambda _: False
        self._keys: dict[str, str] = {}
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        local_garbage.remove_dead_files(folder, DEAD_SECONDS)

    def writer(self) -> BlobWriter:
        return S3Writer(self, self._folder)

    def put_file(self, path: Path) -> Blob:
        digest, size = hashlib.sha256(), 0
        for chunk in read_chunks(path):
            digest.update(chunk)
            size += len(chunk)
        blob = Blob(digest.hexdigest(), size)
        self.send(path, blob)
        return blob

    def send(self, path: Path, blob: Blob) -> None:
        """Make the bytes of a file a blob."""
        self._patiently(partial(self._send, path, blob))

    def fetch(self, sha256: str, path: Path) -> None:
        self._patiently(lambda: copy_checked(self.open(sha256), sha256, path))

    def open(
        self, sha256: str, start: int = 0, length: int | None = None, chunk_bytes: int = CHUNK_BYTES
    ) -> Generator[bytes, None, None]:
        end = None if length is None else start + length
        position, cuts = start, 0
        while position != end and (body := self._body(sha256, position, end)) is not None:
            with closing(body):
                try:
                    while chunk := _read(body, chunk_bytes):
                        position += len(chunk)
                        cuts = 0
                        yield chunk
                    return
                except StorageAway:
                    cuts += 1
                    if cuts > MOST_CUTS:
                        raise
            time.sleep(CUT_PAUSE_SECONDS * 2**cuts)

    def signed_address(self, sha256: str, seconds: int, download: Download) -> str | None:
        answer = {"ResponseContentType": download.media_type}
        if download.disposition:
            answer["ResponseContentDisposition"] = download.disposition
        with storage_errors():
            address: str = self._bucket.signer.generate_presigned_url(
                f"{download.method.lower()}_object",
                Params=self._bucket.named(self._newest(sha256)) | answer,
                ExpiresIn=seconds,
            )
        return address

    def delete(self, sha256: str) -> None:
        self._keys.pop(sha256, None)
        with storage_errors():
            blob = find(self._bucket, sha256)
            for generation in blob.generations if blob else ():
                for key in (generation.key, generation.key + STAMP):
                    self._bucket.client.delete_object(**self._bucket.named(key))

    def collect_garbage(self, older_than_seconds: float, referenced: Referenced) -> Removed:
        files = local_garbage.remove_unfinished(self._folder, older_than_seconds)
        with storage_errors():
            removed = garbage.collect_garbage(self._bucket, older_than_seconds, referenced)
        return Removed(removed.blobs, removed.bytes, removed.unfinished + files)

    def check(self) -> None:
        with storage_errors():
            self._bucket.prober.put_object(**self._bucket.named(self._bucket.key(CHECK)), Body=b"")

    def require_answer(self) -> None:
        with storage_errors():
            self._bucket.prober.list_objects_v2(Bucket=self._bucket.name, Prefix=self._bucket.key(BLOBS), MaxKeys=1)

    def patient(self, pause: Pause) -> "S3Storage":
        storage = copy(self)
        storage._pause = pause
        return storage

    def _patiently(self, work: Callable[[], None]) -> None:
        tries = 0
        while True:
            try:
                return work()
            except StorageAway:
                tries += 1
                if not self._pause(tries):
                    raise

    def _send(self, path: Path, blob: Blob) -> None:
        key = new_key(self._bucket, blob.sha256)
        with storage_errors():
            send(self._bucket, key, path, blob)
        self._remember(blob.sha256, key)

    def _body(self, sha256: str, start: int, end: int | None) -> Any:
        """Return the stream of a part of a blob; None when it begins behind the last byte."""
        key = self._keys.get(sha256)
        if key is not None:
            try:
                return self._get(key, start, end)
            except FileNotFoundError:
                self._keys.pop(sha256, None)  # it was garbage: another generation may be there
        with storage_errors():
            key = self._newest(sha256)
        self._remember(sha256, key)
        return self._get(key, start, end)

    def _get(self, key: str, start: int, end: int | None) -> Any:
        wanted = {} if start == 0 and end is None else {"Range": f"bytes={start}-{'' if end is None else end - 1}"}
        with storage_errors():
            try:
                return self._bucket.client.get_object(**self._bucket.named(key), **wanted)["Body"]
            except ClientError as error:
                if code_of(error) == NO_RANGE:
                    return None
                raise

    def _newest(self, sha256: str) -> str:
        blob = find(self._bucket, sha256)
        newest = blob.newest if blob else None
        if newest is None:
            raise FileNotFoundError(f"There is no blob {sha256}.")
        return newest.key

    def _remember(self, sha256: str, key: str) -> None:
        if len(self._keys) >= MOST_KEYS:
            self._keys.clear()
        self._keys[sha256] = key


def _read(body: Any, size: int) -> bytes:
    with storage_errors():
        chunk: bytes = body.read(size)
    return chunk
