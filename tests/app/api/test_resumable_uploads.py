"""Uploads in parts, as tus 1.0 has them: every rule of the protocol, and the gate at the end."""

import hashlib
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session, sessionmaker

from app.accounts.audit import AuditRow
from app.accounts.caller import called_by
from app.api import receiving
from app.database import clock
from app.main import create_app, create_services
from app.settings import Settings
from app.storage import Storage
from app.uploads import service
from app.uploads.models import ResumableUpload, UploadPart
from app.uploads.service import NewUpload
from tests.app.api.test_uploads import files
from tests.factories import member_of, safetensors
from tests.s3 import TestBucket
from tests.servers import api_thread, wait_until
from tests.tus import PART, VERSION, begin, checksum, metadata, offset_of, samples_of, send

DATA = safetensors(x=("F32", [4, 3]))
SIZE = len(DATA)
ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
LIVES = timedelta(hours=1)


@ON_SQLITE
def test_options_say_what_is_offered(client: httpx.Client, settings: Settings) -> None:
    for address in ("/v1/uploads", "/v1/uploads/upl_0"):
        answer = client.options(address)
        assert answer.status_code == 204
        assert answer.headers["Tus-Version"] == answer.headers["Tus-Resumable"] == "1.0.0"
        offered = answer.headers["Tus-Extension"].split(",")
        assert offered == ["creation", "creation-with-upload", "checksum", "expiration", "termination"]
        assert answer.headers["Tus-Max-Size"] == str(settings.max_upload_bytes)
        assert answer.headers["Tus-Checksum-Algorithm"] == "sha1,sha256"
    assert "Tus-Version" not in client.options("/v1/models").headers


@ON_SQLITE
@pytest.mark.parametrize("cut", [1, 50, SIZE - 1])
def test_two_parts_become_what_one_body_becomes(client: httpx.Client, settings: Settings, cut: int) -> None:
    address = begin(client, SIZE, name="digits")
    first = send(client, address, 0, DATA[:cut])
    assert (first.status_code, first.headers["Upload-Offset"]) == (204, str(cut))
    assert "Upload-Expires" in first.headers
    assert offset_of(client, address) == cut
    last = send(client, address, cut, DATA[cut:])
    assert (last.status_code, last.headers["Upload-Offset"]) == (204, str(SIZE))
    dataset = client.get(last.headers["Upload-Result"]).json()
    plain = client.post("/v1/datasets", params={"name": "digits"}, content=DATA).json()
    same = ("name", "bytes", "sha256", "samples", "tensors")
    assert [dataset[key] for key in same] == [plain[key] for key in same]
    upload = client.get(address).json()
    assert (upload["state"], upload["dataset"], upload["model"]) == ("succeeded", dataset["id"], None)
    assert upload["links"] == {"self": address, "result": f"/v1/datasets/{dataset['id']}"}
    assert len(files(settings)) == 1, "the parts are deleted at once"


@ON_SQLITE
def test_a_model_comes_in_parts(client: httpx.Client, archive: Path) -> None:
    data = archive.read_bytes()
    address = begin(client, len(data), purpose="model", filename="model.pt2")
    for start in range(0, len(data), 5000):
        answer = send(client, address, start, data[start : start + 5000])
    model = client.get(answer.headers["Upload-Result"]).json()
    assert (model["name"], model["format"], model["sha256"]) == ("model.pt2", "pt2", hashlib.sha256(data).hexdigest())


@ON_SQLITE
def test_the_first_part_may_come_with_the_creation(client: httpx.Client) -> None:
    said = {"Upload-Length": str(SIZE), "Upload-Metadata": metadata(purpose="dataset")}
    some = client.post("/v1/uploads", headers={**PART, **said}, content=DATA[:7])
    assert (some.status_code, some.headers["Upload-Offset"]) == (201, "7")
    assert send(client, some.headers["Location"], 7, DATA[7:]).status_code == 204
    whole = client.post("/v1/uploads", headers={**PART, **said}, content=DATA)
    assert (whole.status_code, whole.json()["state"]) == (201, "succeeded")
    assert client.get(whole.headers["Upload-Result"]).status_code == 200


@ON_SQLITE
def test_metadata_come_back_as_they_were_sent(client: httpx.Client) -> None:
    said = metadata(purpose="dataset", name="größe", relativePath="a/b") + ",flag"
    headers = {**VERSION, "Upload-Length": "10", "Upload-Metadata": said}
    answer = client.post("/v1/uploads", headers=headers)
    assert (answer.status_code, answer.json()["name"]) == (201, "größe")
    assert client.head(answer.headers["Location"], headers=VERSION).headers["Upload-Metadata"] == said


@ON_SQLITE
@pytest.mark.parametrize(
    ("changed", "status", "code"),
    [
        ({"Tus-Resumable": "0.2.2"}, 412, "tus_version_unsupported"),
        ({"Tus-Resumable": None}, 412, "tus_version_unsupported"),
        ({"Upload-Length": "0"}, 400, "upload_empty"),
        ({"Upload-Length": str(2**42)}, 413, "upload_too_large"),
        ({"Upload-Length": "-1"}, 422, "request_invalid"),
        ({"Upload-Length": "ten"}, 422, "request_invalid"),
        ({"Upload-Length": None}, 422, "request_invalid"),
        ({"Upload-Metadata": None}, 400, "upload_metadata_invalid"),
        ({"Upload-Metadata": metadata(purpose="profile")}, 400, "upload_metadata_invalid"),
        ({"Upload-Metadata": "purpose dataset!"}, 400, "upload_metadata_invalid"),
        (
            {"Upload-Metadata": metadata(purpose="model") + "," + metadata(purpose="model")},
            400,
            "upload_metadata_invalid",
        ),
        ({"Upload-Metadata": metadata(purpose="model", name="a\u202eb")}, 400, "upload_metadata_invalid"),
        ({"Upload-Metadata": metadata(purpose="model", name="a" * 256)}, 400, "upload_metadata_invalid"),
        ({"Upload-Metadata": metadata(purpose="model", note="a" * 9000)}, 400, "upload_metadata_invalid"),
        ({"Upload-Metadata": "purpose /w=="}, 400, "upload_metadata_invalid"),
    ],
)
def test_what_is_no_upload_is_not_begun(
    client: httpx.Client, changed: dict[str, str | None], status: int, code: str
) -> None:
    sent = {**VERSION, "Upload-Length": "10", "Upload-Metadata": metadata(purpose="dataset"), **changed}
    answer = client.post("/v1/uploads", headers={name: value for name, value in sent.items() if value is not None})
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert client.get("/v1/uploads").json()["items"] == []
    assert answer.headers["Tus-Resumable"] == "1.0.0"
    assert (answer.headers.get("Tus-Version") == "1.0.0") is (status == 412)


@ON_SQLITE
@pytest.mark.parametrize(
    ("changed", "data", "expected"),
    [
        ({"Tus-Resumable": "2.0.0"}, DATA[5:], (412, "tus_version_unsupported")),
        ({"Upload-Offset": "4"}, DATA[4:], (409, "upload_offset_mismatch")),
        ({"Upload-Offset": "6"}, DATA[6:], (409, "upload_offset_mismatch")),
        ({"Upload-Offset": str(SIZE)}, b"", (409, "upload_offset_mismatch")),
        ({"Upload-Offset": "x"}, DATA[5:], (422, "request_invalid")),
        ({"Content-Type": "application/octet-stream"}, DATA[5:], (415, "content_type_unsupported")),
        ({}, DATA[5:] + b"x", (413, "upload_length_exceeded")),
        ({"Upload-Checksum": checksum("sha1", b"")}, DATA[5:], (460, "checksum_mismatch")),
        ({"Upload-Checksum": checksum("sha256", b"")}, DATA[5:9], (460, "checksum_mismatch")),
        ({"Upload-Checksum": checksum("md5", DATA[5:])}, DATA[5:], (400, "checksum_unsupported")),
        ({"Upload-Checksum": "sha1 AA=="}, DATA[5:], (400, "checksum_unsupported")),
        ({"Upload-Checksum": "sha1"}, DATA[5:], (400, "checksum_unsupported")),
    ],
)
def test_a_part_that_is_wrong_changes_nothing(
    client: httpx.Client, settings: Settings, changed: dict[str, str], data: bytes, expected: tuple[int, str]
) -> None:
    address = begin(client, SIZE)
    assert send(client, address, 0, DATA[:5]).status_code == 204
    answer = send(client, address, 5, data, **changed)
    assert (answer.status_code, answer.json()["code"]) == expected
    assert answer.json()["status"] == answer.status_code
    assert offset_of(client, address) == 5
    assert len(files(settings)) == 1
    assert send(client, address, 5, DATA[5:]).status_code == 204


@ON_SQLITE
def test_a_body_without_a_length_may_not_exceed_the_upload(client: httpx.Client, settings: Settings) -> None:
    address = begin(client, 2**20)
    headers = {**PART, "Upload-Offset": "0"}
    answer = client.patch(address, content=(bytes(2**16) for _ in range(17)), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (413, "upload_length_exceeded")
    assert (offset_of(client, address), files(settings)) == (0, [])


@ON_SQLITE
@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_checksums_are_checked(client: httpx.Client, algorithm: str) -> None:
    address = begin(client, SIZE)
    for start in range(0, SIZE, 50):
        part = DATA[start : start + 50]
        answer = send(client, address, start, part, **{"Upload-Checksum": checksum(algorithm, part)})
        assert answer.status_code == 204
    assert "Upload-Result" in answer.headers


@ON_SQLITE
def test_what_the_gate_refuses_is_told_to_who_sent_it_and_to_who_asks_later(
    client: httpx.Client, settings: Settings
) -> None:
    hello = b"hello, model"
    plain = client.post("/v1/models", content=hello).json()
    address = begin(client, len(hello), purpose="model")
    last = send(client, address, 0, hello)
    assert last.status_code == 422
    told = ("code", "title", "detail", "remedy")
    assert [last.json()[key] for key in told] == [plain[key] for key in told]
    upload = client.get(address).json()
    assert upload["state"] == "refused"
    assert [upload["error"][key] for key in told] == [plain[key] for key in told]
    assert client.head(address, headers=VERSION).status_code == 410
    again = send(client, address, len(hello), b"")
    assert (again.status_code, again.json()["code"]) == (422, plain["code"])
    assert files(settings) == []


@ON_SQLITE
def test_who_asks_at_the_end_hears_the_outcome_again(client: httpx.Client) -> None:
    address = begin(client, SIZE)
    result = send(client, address, 0, DATA).headers["Upload-Result"]
    again = send(client, address, SIZE, b"")
    assert (again.status_code, again.headers["Upload-Result"]) == (204, result)
    assert len(client.get("/v1/datasets").json()["items"]) == 1
    assert send(client, address, SIZE, b"more").status_code == 413


def test_a_deleted_upload_leaves_nothing(client: httpx.Client, settings: Settings) -> None:
    address = begin(client, SIZE)
    send(client, address, 0, DATA[:50])
    assert client.delete(address, headers=VERSION).status_code == 204
    assert files(settings) == []
    for method in ("HEAD", "GET", "PATCH", "DELETE"):
        answer = client.request(method, address, headers={**PART, "Upload-Offset": "50"})
        assert answer.status_code == 404


@ON_SQLITE
def test_what_an_upload_became_stays_without_it(client: httpx.Client) -> None:
    address = begin(client, SIZE)
    result = send(client, address, 0, DATA).headers["Upload-Result"]
    assert client.delete(address).status_code == 204
    assert client.get(result).status_code == 200


def test_an_upload_whose_time_is_up_is_gone(client: httpx.Client, session: Session) -> None:
    address = begin(client, SIZE)
    send(client, address, 0, DATA[:50])
    past = clock(session) - timedelta(seconds=1)
    session.rollback()
    session.execute(update(ResumableUpload).values(expires_at=past))
    session.commit()
    late = send(client, address, 50, DATA[50:])
    assert (late.status_code, late.json()["code"]) == (410, "upload_expired")
    assert client.head(address, headers=VERSION).status_code == 410


def test_each_part_begins_the_time_again(client: httpx.Client, session: Session) -> None:
    address = begin(client, SIZE)
    soon = clock(session) + timedelta(seconds=30)
    session.rollback()
    session.execute(update(ResumableUpload).values(expires_at=soon))
    session.commit()
    send(client, address, 0, DATA[:50])
    assert client.get(address).json()["expires_at"] > soon.isoformat()


def test_uploads_of_other_projects_are_not_there(client: httpx.Client, sessions: sessionmaker[Session]) -> None:
    with called_by(member_of("other")), sessions() as session:
        row = service.create(session, NewUpload("dataset", "a", "a", SIZE), LIVES)
    address = f"/v1/uploads/{row.id}"
    part = {**PART, "Upload-Offset": "0"}
    for method, body in (("GET", b""), ("HEAD", b""), ("PATCH", DATA), ("PATCH", b""), ("DELETE", b"")):
        answer = client.request(method, address, headers=part, content=body)
        assert answer.status_code == 404
        if body:
            other = client.request(method, "/v1/uploads/upl_0", headers=part, content=body)
            assert answer.json()["detail"].replace(row.id, "upl_0") == other.json()["detail"]
    assert client.get("/v1/uploads").json()["items"] == []


def test_uploads_are_listed_newest_first(client: httpx.Client) -> None:
    ids = [begin(client, SIZE).rpartition("/")[2] for _ in range(3)]
    page = client.get("/v1/uploads", params={"limit": 2}).json()
    rest = client.get("/v1/uploads", params={"limit": 2, "cursor": page["next_cursor"]}).json()
    assert [upload["id"] for upload in page["items"] + rest["items"]] == ids[::-1]


@ON_SQLITE
def test_a_post_may_stand_for_another_method(client: httpx.Client) -> None:
    address = begin(client, SIZE)
    headers = {**PART, "Upload-Offset": "0", "X-HTTP-Method-Override": "PATCH"}
    assert client.post(address, content=DATA, headers=headers).status_code == 204
    assert client.get(address, headers={"X-HTTP-Method-Override": "DELETE"}).status_code == 200
    assert client.post(address, headers={**VERSION, "X-HTTP-Method-Override": "DELETE"}).status_code == 204


def test_the_trail_says_who_uploaded(client: httpx.Client, session: Session) -> None:
    address = begin(client, SIZE)
    send(client, address, 0, DATA)
    client.delete(address)
    actions = session.scalars(select(AuditRow.action).order_by(AuditRow.seq)).all()
    assert actions == ["upload.created", "upload.received", "dataset.uploaded", "upload.deleted"]
    assert set(session.scalars(select(AuditRow.actor))) == {"anyone"}


@ON_SQLITE
@pytest.mark.parametrize("with_checksum", [False, True])
def test_what_came_before_a_connection_broke_is_kept_unless_it_can_not_be_checked(
    client: httpx.Client, settings: Settings, with_checksum: bool
) -> None:
    data = samples_of(2**21)
    address = begin(client, len(data))
    head = f"PATCH {address} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\nUpload-Offset: 0\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in PART.items())
    if with_checksum:
        head += f"Upload-Checksum: {checksum('sha1', data)}\r\n"
    with socket.create_connection(("127.0.0.1", client.base_url.port or 0)) as connection:
        connection.sendall(head.encode() + b"\r\n" + data[: 2**20 + 1000])
        wait_until(lambda: bool(files(settings)))
    if with_checksum:
        wait_until(lambda: files(settings) == [])
        assert offset_of(client, address) == 0
    else:
        wait_until(lambda: offset_of(client, address) > 0)
        assert offset_of(client, address) == 2**20 + 1000
    start = offset_of(client, address)
    result = send(client, address, start, data[start:]).headers["Upload-Result"]
    assert client.get(result).json()["sha256"] == hashlib.sha256(data).hexdigest()


@ON_SQLITE
def test_a_large_part_is_durable_piece_by_piece(
    client: httpx.Client, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiving, "PIECE_BYTES", 2**20)
    data = samples_of(3 * 2**20)
    address = begin(client, len(data))
    seen = []

    def body() -> Iterator[bytes]:
        for start in range(0, len(data), 2**18):
            yield data[start : start + 2**18]
            if start == 9 * 2**18:
                wait_until(lambda: offset_of(client_of_its_own, address) >= 2**20)
                seen.append(offset_of(client_of_its_own, address))

    with httpx.Client(base_url=client.base_url, timeout=60) as client_of_its_own:
        answer = client.patch(address, content=body(), headers={**PART, "Upload-Offset": "0"})
    assert answer.status_code == 204
    assert 0 < seen[0] < len(data)
    assert client.get(answer.headers["Upload-Result"]).json()["sha256"] == hashlib.sha256(data).hexdigest()
    assert session.scalars(select(UploadPart)).all() == []


def test_of_two_parts_at_once_one_is_taken(client: httpx.Client, settings: Settings) -> None:
    """Each has sent half of its body before any ends: neither could know of the other."""
    data = samples_of(2**20)
    address = begin(client, len(data))
    halfway = threading.Barrier(4)

    def body(filler: bytes) -> Iterator[bytes]:
        yield filler
        halfway.wait(60)
        yield filler

    def send_one(filler: bytes) -> httpx.Response:
        with httpx.Client(base_url=client.base_url, timeout=60) as own:
            return own.patch(address, content=body(filler), headers={**PART, "Upload-Offset": "0"})

    fillers = [bytes([number]) * 1000 for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(send_one, fillers))
    assert sorted(answer.status_code for answer in answers) == [204, 409, 409, 409]
    assert {answer.json()["code"] for answer in answers if answer.status_code == 409} == {"upload_offset_mismatch"}
    assert offset_of(client, address) == 2000
    assert len(files(settings)) == 1


def test_any_process_takes_the_next_part(client: httpx.Client, settings: Settings) -> None:
    """No balancer has to send a client's requests to one process: the parts are in the storage that all share."""
    address = begin(client, SIZE)
    with api_thread(create_app(settings, reconciles=False)) as other:
        assert send(other, address, 0, DATA[:30]).status_code == 204
        assert send(client, address, 30, DATA[30:60]).status_code == 204
        assert offset_of(other, address) == 60
        result = send(other, address, 60, DATA[60:]).headers["Upload-Result"]
        assert client.get(result).json() == other.get(result).json()


@ON_SQLITE
def test_a_client_that_leaves_before_the_outcome_finds_it_later(client: httpx.Client) -> None:
    address = begin(client, SIZE)
    head = f"PATCH {address} HTTP/1.1\r\nHost: x\r\nContent-Length: {SIZE}\r\nUpload-Offset: 0\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in PART.items())
    with socket.create_connection(("127.0.0.1", client.base_url.port or 0)) as connection:
        connection.sendall(head.encode() + b"\r\n" + DATA)
        wait_until(lambda: offset_of(client, address) == SIZE)
    wait_until(lambda: client.get(address).json()["state"] == "succeeded")


@ON_SQLITE
def test_what_another_process_left_is_checked_by_the_next(
    client: httpx.Client, settings: Settings, storage: Storage
) -> None:
    """As a process that was killed leaves it: all is here, and its lease is over."""
    services = create_services(settings)
    address = begin(client, SIZE)
    upload_id = address.rpartition("/")[2]
    with called_by(member_of("default")), services.sessions() as session, storage.writer() as writer:
        writer.write(service.salt() + DATA)
        service.add_part(session, upload_id, 0, writer.commit(), LIVES)
    assert client.get(address).json()["state"] == "checking"
    quick = settings.model_copy(update={"reconcile_seconds": 0.05})
    with api_thread(create_app(quick)) as other:
        wait_until(lambda: other.get(address).json()["state"] == "succeeded")
    services.engine.dispose()
    services.celery.close()


@ON_SQLITE
def test_bytes_that_got_lost_are_a_fault_that_is_told(client: httpx.Client, session: Session, storage: Storage) -> None:
    address = begin(client, SIZE)
    send(client, address, 0, DATA[:50])
    (part,) = session.scalars(select(UploadPart)).all()
    session.rollback()
    part_bytes = b"".join(storage.open(part.sha256))
    storage.delete(part.sha256)
    assert send(client, address, 50, DATA[50:]).status_code == 204
    upload: dict[str, Any] = client.get(address).json()
    assert (upload["state"], upload["error"]["code"]) == ("checking", "upload_check_failed")
    for status in (204, 503):
        last = send(client, address, SIZE, b"")
        assert last.status_code == status
    assert (last.json()["code"], client.get(address).json()["state"]) == ("upload_check_failed", "failed")
    assert client.head(address, headers=VERSION).status_code == 410
    with storage.writer() as writer:
        writer.write(part_bytes)
        writer.commit()
    assert "Upload-Result" in send(client, address, SIZE, b"").headers


@ON_SQLITE
@pytest.mark.parametrize("stored_in", ["s3"], indirect=True)
def test_parts_are_kept_in_a_bucket(client: httpx.Client, bucket: TestBucket) -> None:
    """While it is away no part is acknowledged, and none is lost that was; a check waits for it."""
    address = begin(client, SIZE)
    assert send(client, address, 0, DATA[:50]).status_code == 204
    bucket.server.away("503 SlowDown", seconds=60)
    refused = send(client, address, 50, DATA[50:])
    assert (refused.status_code, refused.json()["code"]) == (503, "storage_away")
    assert offset_of(client, address) == 50
    bucket.server.back()
    assert send(client, address, 50, DATA[50:-1]).status_code == 204
    bucket.server.away("503 SlowDown", seconds=60, methods="GET")
    assert send(client, address, SIZE - 1, DATA[-1:]).status_code == 204
    upload = client.get(address).json()
    assert (upload["state"], upload["error"]["code"]) == ("checking", "storage_away")
    bucket.server.back()
    result = send(client, address, SIZE, b"").headers["Upload-Result"]
    assert client.get(result).json()["sha256"] == hashlib.sha256(DATA).hexdigest()
    assert len(bucket.names()) == 1, "the parts are deleted at once"


@ON_SQLITE
def test_quotas_hold_for_parts_too(client: httpx.Client, settings: Settings, served: httpx.Client) -> None:
    """Parts count from the first byte on, what is announced is looked at before it, and the end once more."""
    services = create_services(settings.model_copy(update={"quota_bytes": SIZE + 20}))
    served.app.state.services = services  # type: ignore[attr-defined]
    address, other = begin(client, SIZE), begin(client, SIZE)
    assert send(client, other, 0, DATA[:61]).status_code == 204
    said = {**VERSION, "Upload-Length": str(SIZE), "Upload-Metadata": metadata(purpose="dataset")}
    late = client.post("/v1/uploads", headers=said)
    assert (late.status_code, late.json()["code"]) == (429, "quota_exceeded")
    assert client.get("/v1/usage").json()["bytes"]["used"] == 61
    over = send(client, address, 0, DATA)
    assert (over.status_code, over.json()["code"]) == (429, "quota_exceeded")
    assert over.headers["Retry-After"]
    client.delete(other)
    again = begin(client, SIZE)
    assert "Upload-Result" in send(client, again, 0, DATA).headers
    assert 0 < client.get("/v1/usage").json()["bytes"]["used"] <= SIZE + 8
    services.engine.dispose()
    services.celery.close()
