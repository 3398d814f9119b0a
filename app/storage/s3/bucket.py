"""How a bucket is reached: its address, credentials by the library's own chain, tries and time limits."""

import os
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

import boto3
from botocore.config import Config

from app.settings import Settings
from app.storage.s3.errors import storage_errors

CHECK = "check"
TRIES = 3
CONNECT_SECONDS = 5
READ_SECONDS = 30
PROBE_SECONDS = 2
CONNECTIONS = 32

_WORD = r"[A-Za-z0-9!_.*'()-]+"
_URL = re.compile(rf"s3://([a-z0-9][a-z0-9.-]{{1,61}}[a-z0-9])(?:/({_WORD}(?:/{_WORD})*)?/?)?")

Client = Any
"""boto3 has no types."""


@dataclass(frozen=True)
class Bucket:
    """A bucket, what the names of our objects in it begin with, and the ways to reach it."""

    client: Client
    prober: Client
    """Tries once, and not for long."""
    signer: Client
    """Signs addresses, as clients reach the storage; it sends nothing."""
    name: str
    prefix: str
    """Empty, or with a slash at its end."""

    def key(self, *words: str) -> str:
        """Return the name of an object."""
        return self.prefix + "/".join(words)

    def named(self, key: str) -> dict[str, str]:
        """Return the arguments that name an object in each request."""
        return {"Bucket": self.name, "Key": key}


def bucket_of(settings: Settings) -> Bucket:
    """Return the bucket that the settings name; nothing is sent to it. Raises ValueError, StorageAway."""
    match = _URL.fullmatch(settings.storage_url)
    if match is None:
        raise ValueError(
            "ZEROPOINT_STORAGE_URL must be s3:// and a bucket, and perhaps a prefix, such as s3://models/team."
        )
    name, prefix = match[1], match[2]
    public = settings.storage_public_endpoint or settings.storage_endpoint
    with storage_errors():
        return Bucket(
            client=_client(settings.storage_endpoint, settings.storage_region, TRIES, READ_SECONDS),
            prober=_client(settings.storage_endpoint, settings.storage_region, 1, PROBE_SECONDS),
            signer=_client(public, settings.storage_region, 1, PROBE_SECONDS),
            name=name,
            prefix=f"{prefix}/" if prefix else "",
        )


@cache
def _client(endpoint: str, region: str, tries: int, read_seconds: int) -> Client:
    """Return a client of this process: it takes 160 ms to make the first one."""
    config = Config(
        signature_version="s3v4",
        connect_timeout=min(CONNECT_SECONDS, read_seconds),
        read_timeout=read_seconds,
        retries={"mode": "standard", "total_max_attempts": tries},
        max_pool_connections=CONNECTIONS,
        # What others than Amazon offer: the bucket in the path, and digests where a request can't do without.
        s3={"addressing_style": "path" if endpoint else "auto", "payload_signing_enabled": True},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return boto3.Session().client("s3", endpoint_url=endpoint or None, region_name=region or None, config=config)


# The connections of a client can't be shared: a process of the worker's pool is a fork of one that has looked already.
os.register_at_fork(after_in_child=_client.cache_clear)
