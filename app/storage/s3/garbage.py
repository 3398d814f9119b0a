"""Removes what nobody needs from a bucket while others write to it, without a lock.

Why no blob in use is removed. A row follows its blob's commit within the grace, and each commit writes an object of its
own name, which nothing replaces. A collection fixes its cutoff (the server's time − grace), then lists, then asks the
database, then removes objects that it has listed and that are older than the cutoff, of blobs that no row names. A row
that the database did not name yet was committed after it was asked, hence its blob less than a grace before that: the
object of that commit is younger than the cutoff, and is not removed, however late the collection comes to remove.

Of a blob that a row names, all but the newest object may go. They go only when the newest is older than the cutoff too:
who looked a name up before it was there has had a grace to read. Suppose that another collection, which was asked
before the row was there, removes that newest one: then it is older than that one's cutoff, and so is each other object
of the blob, among them that of the commit which the row followed; as above, it is not.

An upload in parts is dead when it has got no part for a grace. One that lives, and is so slow, fails and is sent again.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from itertools import islice

from botocore.exceptions import ClientError

from app.storage.blobs import Referenced, Removed
from app.storage.s3.bucket import CHECK, Bucket
from app.storage.s3.errors import NO_UPLOAD, code_of
from app.storage.s3.generations import BLOBS, STAMP, Generation, Stored, stored

BATCH = 500


def collect_garbage(bucket: Bucket, older_than_seconds: float, referenced: Referenced) -> Removed:
    """Remove what is older than the grace and named by nothing.

    Raises errors of the library, and what `referenced` raises.
    """
    cutoff = present(bucket) - timedelta(seconds=older_than_seconds)
    unfinished = sum(_abort_if_dead(bucket, upload, cutoff) for upload in _uploads(bucket))
    sizes: list[int] = []
    candidates = (blob for blob in stored(bucket) if any(_is_old(blob.generations, cutoff)))
    while batch := list(islice(candidates, BATCH)):
        needed = referenced([blob.sha256 for blob in batch])
        for generation in _unneeded(batch, needed, cutoff):
            _remove(bucket, generation)
            if generation.bytes is None:
                unfinished += 1
            else:
                sizes.append(generation.bytes)
    return Removed(len(sizes), sum(sizes), unfinished)


def present(bucket: Bucket) -> datetime:
    """Return the time, to the second, by the clock that gives objects their times: a host's own may differ."""
    check = bucket.named(bucket.key(CHECK))
    bucket.client.put_object(**check, Body=b"")
    at: datetime = bucket.client.head_object(**check)["LastModified"]
    return at


def _unneeded(batch: Iterable[Stored], needed: set[str], cutoff: datetime) -> Iterator[Generation]:
    for blob in batch:
        newest = blob.newest if blob.sha256 in needed else None
        if newest is not None and newest.at > cutoff:
            continue
        for generation in blob.generations:
            if generation is not newest and generation.at <= cutoff:
                yield generation


def _is_old(generations: Iterable[Generation], cutoff: datetime) -> Iterator[bool]:
    return (generation.at <= cutoff for generation in generations)


def _remove(bucket: Bucket, generation: Generation) -> None:
    """Remove an object, then its stamp: in the other order it would look older than it is between the two."""
    bucket.client.delete_object(**bucket.named(generation.key))
    bucket.client.delete_object(**bucket.named(generation.key + STAMP))


def _uploads(bucket: Bucket) -> Iterator[dict[str, object]]:
    pages = bucket.client.get_paginator("list_multipart_uploads")
    for page in pages.paginate(Bucket=bucket.name, Prefix=f"{bucket.key(BLOBS)}/"):
        yield from page.get("Uploads", ())


def _abort_if_dead(bucket: Bucket, upload: dict[str, object], cutoff: datetime) -> bool:
    named = {**bucket.named(str(upload["Key"])), "UploadId": upload["UploadId"]}
    try:
        pages = bucket.client.get_paginator("list_parts").paginate(**named)
        parts = [part["LastModified"] for page in pages for part in page.get("Parts", ())]
        if max([*parts, upload["Initiated"]]) > cutoff:
            return False
        bucket.client.abort_multipart_upload(**named)
    except ClientError as error:
        if code_of(error) != NO_UPLOAD:  # it was finished meanwhile
            raise
        return False
    return True
