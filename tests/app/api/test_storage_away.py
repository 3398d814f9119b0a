"""A storage that is a service of its own, and away: said to callers and operators, and nothing is lost."""

from pathlib import Path

import httpx
import pytest
from sqlalchemy.orm import Session, sessionmaker

from app.jobs import endings
from app.jobs.endings import Product
from app.settings import Settings
from app.storage import Storage
from app.storage.s3 import errors
from tests.factories import add_job, claim_one
from tests.s3 import TestBucket

pytestmark = pytest.mark.parametrize(("database_url", "stored_in"), [("sqlite", "s3")], indirect=True)

AWAY = ["503 SlowDown", "404 NoSuchBucket", "403 InvalidAccessKeyId", "unheard"]


@pytest.fixture
def file(client: httpx.Client, sessions: sessionmaker[Session], storage: Storage) -> str:
    """The address of an artifact."""
    with sessions() as session:
        job_id = add_job(session).id
        claim = claim_one(session)
        with storage.writer() as writer:
            writer.write(bytes(2**18))
            product = Product("model.safetensors", "safetensors", writer.commit())
        endings.succeed(session, claim, "passed", [product])
    return f"/v1/jobs/{job_id}/artifacts/model.safetensors"


def in_scratch(settings: Settings) -> list[str]:
    return [path.name for path in (settings.scratch_dir / "storage").iterdir() if path.name != "lock"]


def test_an_upload_passes_the_gate_into_the_bucket(
    client: httpx.Client, archive: Path, bucket: TestBucket, settings: Settings
) -> None:
    answer = client.post("/v1/models", content=archive.read_bytes())
    assert answer.status_code == 201
    assert len(bucket.names()) == 1
    assert in_scratch(settings) == []


@pytest.mark.parametrize("how", AWAY)
def test_an_upload_is_refused_for_now_and_leaves_nothing(
    client: httpx.Client, samples: Path, bucket: TestBucket, settings: Settings, how: str
) -> None:
    bucket.server.away(how, seconds=60)
    answer = client.post("/v1/datasets", content=samples.read_bytes())
    assert (answer.status_code, answer.json()["code"]) == (503, "storage_away")
    assert int(answer.headers["Retry-After"]) > 0
    bucket.server.back()
    assert in_scratch(settings) == bucket.names() == []
    assert client.get("/v1/datasets").json()["items"] == []
    assert client.post("/v1/datasets", content=samples.read_bytes()).status_code == 201


def test_an_upload_without_room_is_refused_as_by_a_full_disk(
    client: httpx.Client, samples: Path, bucket: TestBucket, settings: Settings
) -> None:
    bucket.server.away("507 XMinioStorageFull", seconds=60)
    answer = client.post("/v1/datasets", content=samples.read_bytes())
    assert (answer.status_code, answer.json()["code"]) == (507, "storage_full")
    assert in_scratch(settings) == []


@pytest.mark.parametrize("how", AWAY)
@pytest.mark.parametrize("query", ["", "?redirect=true"])
def test_a_download_is_refused_for_now(
    client: httpx.Client, file: str, bucket: TestBucket, how: str, query: str
) -> None:
    bucket.server.away(how, seconds=60)
    client.app.state.services.storage._keys.clear()  # type: ignore[attr-defined]
    answer = client.get(file + query)
    assert (answer.status_code, answer.json()["code"]) == (503, "storage_away")
    assert int(answer.headers["Retry-After"]) > 0
    bucket.server.back()
    assert client.get(file).content == bytes(2**18)


def test_what_needs_no_bytes_is_answered(client: httpx.Client, file: str, bucket: TestBucket) -> None:
    bucket.server.away("503 SlowDown", seconds=60)
    assert client.head(file).status_code == 200
    assert client.get("/v1/jobs").status_code == 200


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("404 NoSuchBucket", errors.NO_BUCKET),
        ("403 SignatureDoesNotMatch", errors.UNKNOWN),
        ("403 AccessDenied", errors.FORBIDDEN),
        ("503 SlowDown", errors.FAILING),
        ("unheard", errors.SILENT),
        ("hang", "it did not answer in time"),
    ],
)
def test_readiness_names_what_is_wrong(client: httpx.Client, bucket: TestBucket, how: str, reason: str) -> None:
    bucket.server.away(how, seconds=3 if how == "hang" else 60)
    answer = client.get("/readyz")
    assert answer.status_code == 503
    faults = {fault["pointer"]: fault["detail"] for fault in answer.json()["errors"]}
    assert faults["/storage"] == reason
    assert bucket.name not in answer.text
