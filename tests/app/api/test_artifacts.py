"""Results: the report, the list, and downloads that can be resumed."""

import hashlib
from collections.abc import Callable, Mapping

import httpx
import pytest
from sqlalchemy.orm import Session, sessionmaker

from app.api.digests import repr_digest
from app.jobs import endings
from app.jobs.endings import Product
from app.storage import Storage
from tests.factories import add_job, claim_one

pytestmark = pytest.mark.parametrize(
    ("database_url", "stored_in"), [("sqlite", "folder"), ("postgresql", "folder"), ("sqlite", "s3")], indirect=True
)

DATA = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(DATA).hexdigest()
REPORT = b'{"verdict": "passed"}'


@pytest.fixture
def job(client: httpx.Client, sessions: sessionmaker[Session], storage: Storage) -> str:
    """The address of a job that succeeded."""
    with sessions() as session:
        job_id = add_job(session).id
        claim = claim_one(session)
        products = []
        for name, kind, data in (("model.safetensors", "safetensors", DATA), ("report.json", "report", REPORT)):
            with storage.writer() as writer:
                writer.write(data)
                products.append(Product(name, kind, writer.commit()))
        endings.succeed(session, claim, "passed", products)
    return f"/v1/jobs/{job_id}"


@pytest.fixture
def file(job: str) -> str:
    return f"{job}/artifacts/model.safetensors"


def test_artifacts_are_listed(client: httpx.Client, job: str) -> None:
    assert client.get(f"{job}/artifacts").json()[0] == {
        "name": "model.safetensors",
        "kind": "safetensors",
        "bytes": len(DATA),
        "sha256": SHA256,
        "url": f"{job}/artifacts/model.safetensors",
    }


def test_artifacts_are_pages_too(client: httpx.Client, job: str) -> None:
    array = client.get(f"{job}/artifacts").json()
    query = {"job": job.rpartition("/")[2], "limit": "1"}
    first = client.get("/v1/artifacts", params=query).json()
    second = client.get("/v1/artifacts", params={**query, "cursor": first["next_cursor"]}).json()
    rest = client.get("/v1/artifacts", params={**query, "cursor": second["next_cursor"]}).json()
    assert rest == {"items": [], "next_cursor": None}
    assert sorted([*first["items"], *second["items"]], key=lambda row: str(row["name"])) == array
    assert client.get("/v1/artifacts", params={"job": query["job"]}).json()["next_cursor"] is None


def test_artifacts_of_no_job_are_not_found(client: httpx.Client) -> None:
    answer = client.get("/v1/artifacts", params={"job": "job_0"})
    assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found")
    assert client.get("/v1/artifacts").json()["errors"] == [{"pointer": "/query/job", "detail": "is missing"}]


def test_a_download_has_the_bytes_and_says_what_they_are(client: httpx.Client, file: str) -> None:
    answer = client.get(file)
    assert answer.content == DATA
    assert answer.headers["ETag"] == f'"{SHA256}"'
    assert answer.headers["Repr-Digest"] == repr_digest(SHA256)
    assert answer.headers["Content-Disposition"] == 'attachment; filename="model.safetensors"'
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Accept-Ranges"] == "bytes"


def test_head_is_get_without_the_bytes(client: httpx.Client, file: str) -> None:
    head, get = client.head(file), client.get(file)
    same = ["ETag", "Repr-Digest", "Content-Length", "Content-Disposition", "Content-Type", "Accept-Ranges"]
    assert [head.headers[name] for name in same] == [get.headers[name] for name in same]
    assert head.content == b""


@pytest.mark.parametrize(
    ("wanted", "start", "end"),
    [("0-9", 0, 10), ("1000-", 1000, 256_000), ("-10", 255_990, 256_000), ("255999-999999", 255_999, 256_000)],
)
def test_a_range_is_a_part(client: httpx.Client, file: str, wanted: str, start: int, end: int) -> None:
    answer = client.get(file, headers={"Range": f"bytes={wanted}"})
    assert (answer.status_code, answer.content) == (206, DATA[start:end])
    assert answer.headers["Content-Range"] == f"bytes {start}-{end - 1}/{len(DATA)}"
    assert answer.headers["Repr-Digest"] == repr_digest(SHA256)


def test_a_range_longer_than_the_file_from_its_end_is_the_file(client: httpx.Client, file: str) -> None:
    assert client.get(file, headers={"Range": "bytes=-999999"}).content == DATA


@pytest.mark.parametrize("wanted", ["256000-", "999999-1000000", "-0"])
def test_a_range_outside_is_refused(client: httpx.Client, file: str, wanted: str) -> None:
    answer = client.get(file, headers={"Range": f"bytes={wanted}"})
    assert (answer.status_code, answer.json()["code"]) == (416, "range_not_satisfiable")
    assert answer.headers["Content-Range"] == f"bytes */{len(DATA)}"


@pytest.mark.parametrize("wanted", ["bytes=9-1", "bytes=-", "bytes=x-y", "items=0-1", "0-1", "bytes=0-1,5-6", ""])
def test_a_range_that_can_not_be_used_is_ignored(client: httpx.Client, file: str, wanted: str) -> None:
    answer = client.get(file, headers={"Range": wanted})
    assert (answer.status_code, answer.content) == (200, DATA)


@pytest.mark.parametrize(("tag", "status"), [(f'"{SHA256}"', 206), ('"other"', 200), ("Mon, 01 Jan 2024", 200)])
def test_a_range_holds_for_the_named_bytes_alone(client: httpx.Client, file: str, tag: str, status: int) -> None:
    assert client.get(file, headers={"Range": "bytes=0-9", "If-Range": tag}).status_code == status


@pytest.mark.parametrize("tag", [f'"{SHA256}"', f'W/"{SHA256}"', f'"x", "{SHA256}"', "*"])
def test_bytes_that_are_known_are_not_sent_again(client: httpx.Client, file: str, tag: str) -> None:
    answer = client.get(file, headers={"If-None-Match": tag})
    assert (answer.status_code, answer.content) == (304, b"")
    assert answer.headers["ETag"] == f'"{SHA256}"'


def test_other_bytes_are_sent(client: httpx.Client, file: str) -> None:
    assert client.get(file, headers={"If-None-Match": '"other"'}).content == DATA


def test_the_report_is_what_the_job_wrote(client: httpx.Client, job: str) -> None:
    answer = client.get(f"{job}/report")
    assert (answer.content, answer.headers["Content-Type"]) == (REPORT, "application/json")


def test_before_the_end_there_is_no_report(client: httpx.Client, sessions: sessionmaker[Session]) -> None:
    with sessions() as session:
        job_id = add_job(session).id
    answer = client.get(f"/v1/jobs/{job_id}/report")
    assert (answer.status_code, answer.json()["code"]) == (404, "report_not_ready")
    assert client.get(f"/v1/jobs/{job_id}/artifacts").json() == []


@pytest.mark.parametrize("name", ["model.onnx", "%2e%2e", "%2e%2e%2fzeropoint.db", "a%00b"])
def test_another_name_is_not_found(client: httpx.Client, job: str, name: str) -> None:
    answer = client.get(f"{job}/artifacts/{name}")
    assert answer.status_code == 404
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_a_download_holds_no_database_connection(
    client: httpx.Client, file: str, connections_in_use: Callable[[], int]
) -> None:
    with client.stream("GET", file) as answer:
        next(answer.iter_raw())
        assert connections_in_use() == 0


@pytest.fixture
def connections_in_use(client: httpx.Client) -> Callable[[], int]:
    pool = client.app.state.services.engine.pool  # type: ignore[attr-defined]
    return lambda: int(pool.checkedout())


@pytest.mark.parametrize("wanted", ["true", "1", "false"])
def test_a_redirect_leads_to_the_same_bytes(
    client: httpx.Client, file: str, wanted: str, stored_in: Mapping[str, str]
) -> None:
    """A folder has no address of its own."""
    answer = client.get(file, params={"redirect": wanted})
    if wanted == "false" or "storage_endpoint" not in stored_in:
        assert (answer.status_code, answer.content) == (200, DATA)
        return
    assert (answer.status_code, answer.content) == (307, b"")
    assert answer.headers["Cache-Control"] == "private, no-store"
    there = httpx.get(answer.headers["Location"], headers={"Range": "bytes=10-19"})
    assert (there.status_code, there.content) == (206, DATA[10:20])
    assert there.headers["Content-Disposition"] == 'attachment; filename="model.safetensors"'


def test_a_head_of_a_redirect_is_for_a_head(client: httpx.Client, file: str) -> None:
    answer = client.head(file, params={"redirect": "true"}, follow_redirects=True)
    assert (answer.status_code, answer.headers["Content-Length"]) == (200, str(len(DATA)))


def test_what_a_client_has_is_not_redirected(client: httpx.Client, file: str) -> None:
    headers = {"If-None-Match": f'"{SHA256}"'}
    assert client.get(file, params={"redirect": "true"}, headers=headers).status_code == 304
