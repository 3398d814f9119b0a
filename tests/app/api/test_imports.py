"""Imports by reference: accepted, fetched beside the request, and ended by the same gate."""

import hashlib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.accounts.audit import AuditRow
from app.accounts.caller import called_by
from app.api import checks
from app.main import create_app, create_services
from app.settings import Settings
from app.uploads import service
from app.uploads.service import NewUpload
from tests.app.api.test_uploads import files as stored_files
from tests.exposition import scrape
from tests.factories import member_of, safetensors
from tests.s3 import TestBucket
from tests.servers import api_thread, wait_until
from tests.sources import Files, serving
from tests.transformers_networks import network
from tests.tus import PART, VERSION

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

DATA = safetensors(x=("F32", [4, 3]))


@pytest.fixture
def files() -> Iterator[Files]:
    with serving() as files:
        yield files


@pytest.fixture
def allowing(settings: Settings, files: Files) -> Settings:
    """Settings with which the service may import from `files`."""
    return settings.model_copy(update={**files.settings, "reconcile_seconds": 0.05})


@pytest.fixture
def importing(served: httpx.Client, allowing: Settings) -> Iterator[httpx.Client]:
    services = create_services(allowing)
    served.app.state.services = services  # type: ignore[attr-defined]
    yield served
    services.engine.dispose()
    services.celery.close()


def begin(client: httpx.Client, kind: str, source: str, **more: str) -> dict[str, Any]:
    answer = client.post(f"/v1/{kind}s", json={"source": source, **more})
    assert answer.status_code == 202, answer.text
    assert answer.headers["Location"] == answer.json()["links"]["self"]
    upload: dict[str, Any] = answer.json()
    return upload


def ended(client: httpx.Client, upload: dict[str, Any]) -> dict[str, Any]:
    address = upload["links"]["self"]
    wait_until(lambda: client.get(address).json()["state"] not in {"fetching", "checking"})
    found: dict[str, Any] = client.get(address).json()
    return found


def test_a_dataset_is_fetched(importing: httpx.Client, files: Files, allowing: Settings, session: Session) -> None:
    before = scrape(importing).value("zeropoint_upload_bytes_total")
    upload = begin(importing, "dataset", files.put("/digits.safetensors", DATA))
    assert (upload["state"], upload["source"]) == ("fetching", f"{files.address}/digits.safetensors")
    done = ended(importing, upload)
    assert (done["state"], done["bytes"], done["received_bytes"]) == ("succeeded", len(DATA), len(DATA))
    assert scrape(importing).value("zeropoint_upload_bytes_total") == before + len(DATA)
    dataset = importing.get(done["links"]["result"]).json()
    assert (dataset["name"], dataset["sha256"]) == ("digits.safetensors", hashlib.sha256(DATA).hexdigest())
    assert len(stored_files(allowing)) == 1
    assert session.scalars(select(AuditRow.action).order_by(AuditRow.seq)).all() == [
        "import.created",
        "dataset.uploaded",
    ]


def test_a_model_is_fetched_under_another_name(importing: httpx.Client, files: Files, archive: Path) -> None:
    upload = begin(importing, "model", files.put("/a.pt2", archive.read_bytes()), name="digits")
    model = importing.get(ended(importing, upload)["links"]["result"]).json()
    assert (model["name"], model["format"]) == ("digits", "pt2")


@pytest.mark.slow
def test_a_repository_becomes_a_model(importing: httpx.Client, files: Files, tmp_path: Path) -> None:
    """The way of a tiny network of transformers through a hub's paths."""
    folder = tmp_path / "folder"
    made = network("BertModel", folder)
    contents = {file.name: file.read_bytes() for file in folder.iterdir()}
    files.put_repository("org/tiny-bert", contents, "v1")
    upload = begin(importing, "model", "hf://org/tiny-bert@v1")
    model = importing.get(ended(importing, upload)["links"]["result"]).json()
    assert (model["name"], model["format"]) == ("tiny-bert", "huggingface")
    assert model["parameters"] == sum(parameter.numel() for parameter in made.model.parameters())


def test_what_the_gate_refuses_can_be_read(importing: httpx.Client, files: Files, allowing: Settings) -> None:
    plain = importing.post("/v1/models", content=b"hello, model").json()
    done = ended(importing, begin(importing, "model", files.put("/model.pt2", b"hello, model")))
    assert (done["state"], done["error"]["code"], done["error"]["detail"]) == (
        "refused",
        plain["code"],
        plain["detail"],
    )
    assert stored_files(allowing) == []


@pytest.mark.parametrize(
    ("path", "refusal"),
    [
        ("/nothing", ("source_refused", "")),
        ("/inside", ("import_not_allowed", "ZEROPOINT_IMPORT_PRIVATE_ADDRESSES")),
        ("/large", ("upload_too_large", "")),
    ],
)
def test_what_can_not_be_fetched_can_be_read(
    importing: httpx.Client, files: Files, allowing: Settings, path: str, refusal: tuple[str, str]
) -> None:
    code, remedy = refusal
    files.redirect("/inside", "http://169.254.169.254/latest/meta-data")
    if path == "/large":
        files.put("/large", bytes(2**20))
        small = allowing.model_copy(update={"max_upload_bytes": 2**19})
        importing.app.state.services = create_services(small)  # type: ignore[attr-defined]
    done = ended(importing, begin(importing, "model", files.address + path))
    assert (done["state"], done["error"]["code"]) == ("refused", code)
    assert remedy in done["error"]["remedy"] != ""
    assert stored_files(allowing) == []


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"source": "https://example.org/a"}, 422, "import_not_allowed"),
        ({"source": "s3://bucket/key"}, 422, "import_not_allowed"),
        ({"source": "ftp://example.org/a"}, 422, "source_invalid"),
        ({"source": ""}, 422, "request_invalid"),
        ({}, 422, "request_invalid"),
        ({"source": "https://example.org/a", "sauce": 1}, 422, "request_invalid"),
        ({"source": "https://example.org/a", "name": "a\u202eb"}, 422, "request_invalid"),
        ([], 422, "request_invalid"),
    ],
)
def test_what_is_no_import_is_refused_at_once(importing: httpx.Client, body: Any, status: int, code: str) -> None:
    for kind in ("models", "datasets", "imports"):
        content = {**body, "purpose": "model"} if kind == "imports" and isinstance(body, dict) else body
        answer = importing.post(f"/v1/{kind}", json=content)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert importing.get("/v1/uploads").json()["items"] == []


def test_an_import_says_what_it_becomes(importing: httpx.Client, files: Files) -> None:
    wish = {"source": files.put("/a.npz", DATA), "purpose": "dataset", "name": "digits"}
    answer = importing.post("/v1/imports", json=wish)
    assert (answer.status_code, answer.json()["purpose"], answer.json()["name"]) == (202, "dataset", "digits")
    assert ended(importing, answer.json())["state"] == "succeeded"
    assert importing.post("/v1/imports", json={**wish, "purpose": "job"}).json()["code"] == "request_invalid"


@pytest.mark.parametrize("body", [b"{", b'{"source": "a", "source": "b"}', b"\xff"])
def test_what_is_no_json_is_refused(importing: httpx.Client, body: bytes) -> None:
    answer = importing.post("/v1/models", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (400, "json_malformed")
    large = importing.post("/v1/models", content=b" " * (2**20 + 1), headers={"Content-Type": "application/json"})
    assert (large.status_code, large.json()["code"]) == (413, "body_too_large")


def test_imports_are_off_until_an_operator_allows_a_host(client: httpx.Client, files: Files) -> None:
    answer = client.post("/v1/models", json={"source": files.put("/a", DATA)})
    assert (answer.status_code, answer.json()["code"]) == (422, "import_not_allowed")
    assert "imports are off" in answer.json()["detail"]
    assert files.asked == []


def test_an_import_takes_no_parts(importing: httpx.Client, files: Files) -> None:
    files.gate.clear()
    address = begin(importing, "dataset", files.put("/a", DATA))["links"]["self"]
    part = importing.patch(address, content=DATA, headers={**PART, "Upload-Offset": "0"})
    assert (part.status_code, part.json()["code"]) == (409, "upload_offset_mismatch")
    assert importing.head(address, headers=VERSION).status_code == 200
    files.gate.set()


def test_an_import_that_is_deleted_leaves_nothing(importing: httpx.Client, files: Files, allowing: Settings) -> None:
    files.gate.clear()
    address = begin(importing, "dataset", files.put("/a", DATA))["links"]["self"]
    wait_until(lambda: bool(files.asked))
    assert importing.delete(address).status_code == 204
    files.gate.set()
    wait_until(lambda: stored_files(allowing) == [])
    assert importing.get("/v1/datasets").json()["items"] == []


def test_a_source_that_is_away_is_asked_three_times(
    importing: httpx.Client, files: Files, allowing: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "PAUSE", timedelta(0))
    upload = begin(importing, "dataset", files.put("/a", b"", 503))
    with api_thread(create_app(allowing)):
        done = ended(importing, upload)
    assert (done["state"], done["error"]["code"], len(files.asked)) == ("refused", "source_unavailable", 3)


def test_what_another_process_left_is_fetched_by_the_next(
    importing: httpx.Client, files: Files, allowing: Settings
) -> None:
    """As a process that was killed leaves it: its lease is over, and some of the bytes may be here."""
    services = create_services(allowing)
    source = files.put("/a", DATA)
    with called_by(member_of("default")), services.sessions() as session:
        new = NewUpload("dataset", "a", "a", None, source=source)
        upload_id = service.create(session, new, timedelta(hours=1)).id
    upload = {"links": {"self": f"/v1/uploads/{upload_id}"}}
    with api_thread(create_app(allowing)):
        assert ended(importing, upload)["state"] == "succeeded"
    services.engine.dispose()
    services.celery.close()


@pytest.mark.parametrize("key", ["a/samples.safetensors", "nothing"])
def test_an_object_of_a_bucket_is_fetched(
    served: httpx.Client, settings: Settings, bucket: TestBucket, key: str
) -> None:
    bucket.server.client.put_object(Bucket=bucket.name, Key="a/samples.safetensors", Body=DATA)
    listed = {"import_hosts": f"s3://{bucket.name}", "storage_endpoint": bucket.server.address}
    services = create_services(settings.model_copy(update=listed))
    served.app.state.services = services  # type: ignore[attr-defined]
    done = ended(served, begin(served, "dataset", f"s3://{bucket.name}/{key}"))
    if key == "nothing":
        assert done["error"]["code"] == "source_refused"
    else:
        assert served.get(done["links"]["result"]).json()["name"] == "samples.safetensors"
    services.engine.dispose()
    services.celery.close()


def test_a_project_has_so_many_imports_at_once(served: httpx.Client, allowing: Settings, files: Files) -> None:
    services = create_services(allowing.model_copy(update={"quota_uploads": 1}))
    served.app.state.services = services  # type: ignore[attr-defined]
    files.gate.clear()
    source = files.put("/a", DATA)
    first = begin(served, "dataset", source)
    second = served.post("/v1/datasets", json={"source": source})
    assert (second.status_code, second.json()["code"]) == (429, "quota_exceeded")
    files.gate.set()
    assert ended(served, first)["state"] == "succeeded"
    services.engine.dispose()
    services.celery.close()
