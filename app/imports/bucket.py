"""Objects of buckets that the operator allows, read with the service's own credentials and endpoint."""

import time
from collections.abc import Iterator
from contextlib import closing

from app.imports.rules import ImportRules, away, not_allowed, refused_by_source, too_large
from app.imports.sources import Source
from app.storage import StorageAway

CHUNK_BYTES = 2**20


def stream(source: Source, rules: ImportRules) -> Iterator[bytes]:
    """Yield the bytes of an object. Raises Invalid, TooLarge, Unavailable."""
    try:
        from app.storage.s3.bucket import bucket_of  # noqa: PLC0415 - an extra
        from app.storage.s3.errors import storage_errors  # noqa: PLC0415 - an extra
    except ImportError:
        raise not_allowed("the service was installed without the extra s3", "for zeropoint[s3]") from None
    until, name = time.monotonic() + rules.seconds, f"s3://{source.place}"
    try:
        with storage_errors():
            bucket = bucket_of(rules.settings.model_copy(update={"storage_url": name}))
            answer = bucket.client.get_object(**bucket.named(source.item))
            if answer["ContentLength"] > rules.most_bytes:
                raise too_large(rules.most_bytes)
            with closing(answer["Body"]) as body:
                while chunk := body.read(CHUNK_BYTES):
                    if time.monotonic() > until:
                        raise away(f"{name} did not come in time.")
                    yield chunk
    except FileNotFoundError:
        raise refused_by_source(name, 404) from None
    except StorageAway as error:
        raise refused_by_source(name, 403) if error.lasting else away(f"{name} does not answer.") from error
