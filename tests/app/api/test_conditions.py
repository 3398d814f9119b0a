"""Conditional requests, on everything that never changes."""

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime

import httpx
import pytest
from sqlalchemy.orm import Session, sessionmaker

from app.storage import LocalStorage, Storage
from tests.app.api.test_artifacts import job as job  # a fixture

EARLIER = format_datetime(datetime.now(UTC) - timedelta(days=9), usegmt=True)
LATER = format_datetime(datetime.now(UTC) + timedelta(days=9), usegmt=True)


@pytest.fixture(params=["model", "dataset", "artifact", "report"])
def address(request: pytest.FixtureRequest) -> str:
    """The address of something that never changes."""
    if request.param in ("model", "dataset"):
        return f"/v1/{request.param}s/{request.getfixturevalue(f'{request.param}_id')}"
    end = "report" if request.param == "report" else "artifacts/model.safetensors"
    return f"{request.getfixturevalue('job')}/{end}"


CONDITIONS: list[tuple[Callable[[str, str], dict[str, str]], int]] = [
    (lambda tag, _: {"If-Match": tag}, 200),
    (lambda tag, _: {"If-Match": f'"x", {tag}'}, 200),
    (lambda _, __: {"If-Match": "*"}, 200),
    (lambda _, __: {"If-Match": '"x"'}, 412),
    (lambda tag, _: {"If-Match": f"W/{tag}"}, 412),
    (lambda _, __: {"If-Match": ""}, 412),
    (lambda tag, _: {"If-Match": tag, "If-Unmodified-Since": EARLIER}, 200),
    (lambda _, time: {"If-Unmodified-Since": time}, 200),
    (lambda _, __: {"If-Unmodified-Since": LATER}, 200),
    (lambda _, __: {"If-Unmodified-Since": EARLIER}, 412),
    (lambda _, __: {"If-Unmodified-Since": "yesterday"}, 200),
    (lambda tag, _: {"If-None-Match": tag}, 304),
    (lambda tag, _: {"If-None-Match": f'"x", W/{tag}'}, 304),
    (lambda _, __: {"If-None-Match": "*"}, 304),
    (lambda _, time: {"If-None-Match": '"x"', "If-Modified-Since": time}, 200),
    (lambda _, time: {"If-Modified-Since": time}, 304),
    (lambda _, __: {"If-Modified-Since": LATER}, 304),
    (lambda _, __: {"If-Modified-Since": EARLIER}, 200),
    (lambda _, __: {"If-Modified-Since": "9" * 5000}, 200),
    (lambda tag, _: {"If-Match": '"x"', "If-None-Match": tag}, 412),
]


def test_a_condition_decides(client: httpx.Client, address: str) -> None:
    whole = client.get(address)
    tag, modified = whole.headers["ETag"], whole.headers["Last-Modified"]
    assert tag.startswith('"')
    for make, status in CONDITIONS:
        for method in ("GET", "HEAD"):
            answer = client.request(method, address, headers=make(tag, modified))
            assert answer.status_code == status, (method, make(tag, modified))
            if status == 412 and method == "GET":
                assert answer.json()["code"] == "precondition_failed"
            if status == 304:
                assert answer.content == b""
                assert (answer.headers["ETag"], answer.headers["Last-Modified"]) == (tag, modified)


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_nothing_is_deleted_under_a_condition_that_does_not_hold(
    client: httpx.Client, request: pytest.FixtureRequest, kind: str
) -> None:
    address = f"/v1/{kind}s/{request.getfixturevalue(f'{kind}_id')}"
    tag = client.get(address).headers["ETag"]
    for headers in ({"If-Match": '"x"'}, {"If-None-Match": "*"}, {"If-Unmodified-Since": EARLIER}):
        assert client.delete(address, headers=headers).status_code == 412
    assert client.delete(address, headers={"If-Match": tag}).status_code == 204


def test_the_time_of_an_artifact_is_that_of_its_row(client: httpx.Client, job: str, storage: Storage) -> None:
    """The file's own time moves when another job stores the same bytes."""
    address = f"{job}/artifacts/model.safetensors"
    before = client.get(address).headers
    with storage.writer() as writer:
        writer.write(client.get(address).content)
        writer.commit()
    sha256 = before["ETag"].strip('"')
    assert isinstance(storage, LocalStorage)
    os.utime(storage.path(sha256), (0, 0))
    after = client.get(address).headers
    assert after["Last-Modified"] == before["Last-Modified"]
    assert abs(parsedate_to_datetime(after["Last-Modified"]) - datetime.now(UTC)) < timedelta(hours=1)


def test_a_range_holds_for_the_time_that_it_names(client: httpx.Client, job: str) -> None:
    address = f"{job}/artifacts/model.safetensors"
    modified = client.get(address).headers["Last-Modified"]
    for time, status in ((modified, 206), (EARLIER, 200), (LATER, 200)):
        assert client.get(address, headers={"Range": "bytes=0-9", "If-Range": time}).status_code == status


def test_what_is_gone_is_not_found_whatever_the_condition(
    client: httpx.Client, model_id: str, sessions: sessionmaker[Session]
) -> None:
    address = f"/v1/models/{model_id}"
    tag = client.get(address).headers["ETag"]
    assert client.delete(address).status_code == 204
    assert client.get(address, headers={"If-None-Match": tag}).status_code == 404
