"""What clients of tus send, for tests of its server."""

import base64
import hashlib
import os

import httpx

from tests.factories import with_header

VERSION = {"Tus-Resumable": "1.0.0"}
PART = {**VERSION, "Content-Type": "application/offset+octet-stream"}


def metadata(**texts: str) -> str:
    """Return the header Upload-Metadata."""
    return ",".join(f"{key} {base64.b64encode(text.encode()).decode()}" for key, text in texts.items())


def checksum(algorithm: str, data: bytes) -> str:
    """Return the header Upload-Checksum."""
    return f"{algorithm} {base64.b64encode(hashlib.new(algorithm, data).digest()).decode()}"


def samples_of(size: int) -> bytes:
    """Return a dataset of random bytes: whatever changes places, the gate's digest shows it."""
    header = {"x": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
    return with_header(header, os.urandom(size))


def begin(client: httpx.Client, size: int, **texts: str) -> str:
    """Begin an upload, of a dataset unless `purpose` says otherwise; return its address."""
    headers = {**VERSION, "Upload-Length": str(size), "Upload-Metadata": metadata(**{"purpose": "dataset", **texts})}
    answer = client.post("/v1/uploads", headers=headers)
    assert answer.status_code == 201, answer.text
    return answer.headers["Location"]


def send(client: httpx.Client, address: str, start: int, data: bytes, **headers: str) -> httpx.Response:
    """Send a part."""
    return client.patch(address, content=data, headers={**PART, "Upload-Offset": str(start), **headers})


def offset_of(client: httpx.Client, address: str) -> int:
    """Return where the next part begins."""
    answer = client.head(address, headers=VERSION)
    assert answer.status_code == 200, answer.status_code
    return int(answer.headers["Upload-Offset"])
