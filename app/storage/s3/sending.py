"""Sends a local file to a new object: whole, or in parts at the same time when it is large.

Each request is repeated where no answer came. So an object may be there already when it is written: nobody else has
its name, hence it is ours.
"""

import base64
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError
from s3transfer.utils import ReadFileChunk

from app.storage.blobs import Blob
from app.storage.s3.bucket import Bucket
from app.storage.s3.errors import EXISTS, NO_UPLOAD, code_of
from app.storage.s3.generations import STAMP

PART_BYTES = 32 * 2**20
MOST_PARTS = 10_000
AT_ONCE = 4

Part = dict[str, object]


def send(bucket: Bucket, key: str, path: Path, blob: Blob) -> None:
    """Write a new object with the bytes of a file. Raises OSError, and errors of the library."""
    if blob.bytes <= PART_BYTES:
        _send_whole(bucket, key, path, blob)
    else:
        _send_in_parts(bucket, key, path, blob)


def _send_whole(bucket: Bucket, key: str, path: Path, blob: Blob) -> None:
    digest = base64.b64encode(bytes.fromhex(blob.sha256)).decode()  # the server refuses other bytes
    with path.open("rb") as file:
        try:
            bucket.client.put_object(**bucket.named(key), Body=file, IfNoneMatch="*", ChecksumSHA256=digest)
        except ClientError as error:
            if code_of(error) != EXISTS:
                raise


def _send_in_parts(bucket: Bucket, key: str, path: Path, blob: Blob) -> None:
    upload = bucket.client.create_multipart_upload(**bucket.named(key))["UploadId"]
    try:
        parts = _send_parts(bucket, key, upload, path, blob.bytes)
        bucket.client.put_object(**bucket.named(key + STAMP), Body=b"")
        _join(bucket, key, upload, parts, blob.bytes)
    except BaseException:
        with suppress(BotoCoreError, ClientError):  # what stays is removed as garbage
            bucket.prober.abort_multipart_upload(**bucket.named(key), UploadId=upload)
        raise


def _send_parts(bucket: Bucket, key: str, upload: str, path: Path, size: int) -> Sequence[Part]:
    length = max(PART_BYTES, -(-size // MOST_PARTS))

    def send_part(number: int) -> Part:
        with ReadFileChunk.from_filename(path, (number - 1) * length, length) as body:
            sent = bucket.client.upload_part(**bucket.named(key), UploadId=upload, PartNumber=number, Body=body)
        return {"PartNumber": number, "ETag": sent["ETag"]}

    pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="part")
    try:
        return list(pool.map(send_part, range(1, -(-size // length) + 1)))
    finally:
        pool.shutdown(cancel_futures=True)


def _join(bucket: Bucket, key: str, upload: str, parts: Sequence[Part], size: int) -> None:
    try:
        bucket.client.complete_multipart_upload(
            **bucket.named(key), UploadId=upload, MultipartUpload={"Parts": parts}, IfNoneMatch="*"
        )
    except ClientError as error:
        if code_of(error) not in (EXISTS, NO_UPLOAD):
            raise
        if bucket.client.head_object(**bucket.named(key))["ContentLength"] != size:
            raise
