"""An S3 server for a run of tests, in a process of its own, and an empty bucket of it for each test."""

import json
import os
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import boto3

from tests.servers import ROOT, free_port, listens, wait_until

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "tests",
    "AWS_SECRET_ACCESS_KEY": "tests",
    "AWS_EC2_METADATA_DISABLED": "true",  # else whoever finds no credentials asks the network for some
}
"""For every process that uses the server: the library finds them in the environment."""


@dataclass(frozen=True)
class S3Server:
    """A running server."""

    address: str
    pid: int

    @cached_property
    def client(self) -> Any:
        """A client of the tests' own, which sees what is really there."""
        return boto3.Session("tests", "tests").client("s3", endpoint_url=self.address, region_name="us-east-1")

    def fresh_bucket(self) -> "TestBucket":
        """An empty bucket."""
        name = f"bucket-{uuid.uuid4().hex}"
        self.client.create_bucket(Bucket=name)
        return TestBucket(self, name)

    def away(self, how: str, *, seconds: float = 0, times: int = 0, methods: str = "") -> None:
        """Fail for so long or so many times, in requests of these methods, or in all."""
        self._ask("away", how=how, seconds=seconds, times=times, methods=methods)

    def back(self) -> None:
        """Fail no more."""
        self.away("")

    def age(self, bucket: str, below: str, seconds: float) -> None:
        """Let time pass for the objects of a bucket whose names begin so."""
        self._ask("age", bucket=bucket, below=below, seconds=seconds)

    def _ask(self, what: str, **order: object) -> None:
        request = urllib.request.Request(f"{self.address}/_tests/{what}", json.dumps(order).encode(), method="POST")
        urllib.request.urlopen(request, timeout=60).close()


@dataclass(frozen=True)
class TestBucket:
    """A bucket, as a test looks at it from outside."""

    __test__ = False

    server: S3Server
    name: str
    prefix: str = "team"

    @property
    def url(self) -> str:
        return f"s3://{self.name}/{self.prefix}"

    def names(self, below: str = "blobs/") -> list[str]:
        """Names without the prefix."""
        pages = self.server.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=self.prefix)
        names = [entry["Key"].removeprefix(f"{self.prefix}/") for page in pages for entry in page.get("Contents", ())]
        return [name for name in names if name.startswith(below)]

    def put(self, name: str, data: bytes) -> None:
        self.server.client.put_object(Bucket=self.name, Key=f"{self.prefix}/{name}", Body=data)

    def age(self, below: str, seconds: float) -> None:
        self.server.age(self.name, f"{self.prefix}/{below}", seconds)

    def uploads(self) -> list[str]:
        """Uploads in parts that were neither finished nor aborted."""
        listed = self.server.client.list_multipart_uploads(Bucket=self.name)
        return [upload["UploadId"] for upload in listed.get("Uploads", ())]


@contextmanager
def s3_server(log: Path, port: int | None = None) -> Iterator[S3Server]:
    """Run a server; what it stores is gone with it."""
    port = port or free_port()
    command = [sys.executable, "-W", "ignore", "-m", "tests.s3_process", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **CREDENTIALS}, stdout=output, stderr=output)
    try:
        wait_until(lambda: listens(port) or process.poll() is not None)
        yield S3Server(f"http://127.0.0.1:{port}", process.pid)
    finally:
        process.terminate()
        process.wait(60)
