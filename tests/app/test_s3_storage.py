"""What a storage in a bucket promises beside what every storage does: `tests.app.test_storage` has that."""

import errno
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest

from app.settings import Settings
from app.storage import Download, Removed, Storage, StorageAway, check_at_start, open_storage
from app.storage.s3 import errors, sending
from app.storage.s3 import storage as s3_storage
from app.storage.s3.bucket import bucket_of
from app.storage.s3.storage import MOST_CUTS
from tests.app.storages import DAY, InBucket, is_there, write
from tests.factories import content_of
from tests.servers import free_port, wait_until

LEAST_PART = 5 * 2**20
"""The least that S3 takes, but for the last part."""


@pytest.fixture
def storage(in_bucket: InBucket, monkeypatch: pytest.MonkeyPatch) -> Storage:
    monkeypatch.setattr(s3_storage, "CUT_PAUSE_SECONDS", 0.01)
    return in_bucket.storage


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that goes in three parts."""
    monkeypatch.setattr(sending, "PART_BYTES", LEAST_PART)
    path = tmp_path / "large"
    path.write_bytes(os.urandom(2 * LEAST_PART + 7))
    return path


def nothing(_digests: Sequence[str]) -> set[str]:
    return set()


def test_each_commit_writes_an_object_of_its_own(storage: Storage, in_bucket: InBucket) -> None:
    sha256 = write(storage, b"hello")
    first = in_bucket.objects(sha256)
    write(storage, b"hello")
    assert len(in_bucket.objects(sha256)) == 2
    assert set(first) < set(in_bucket.objects(sha256))


def test_equal_bytes_become_one_object_when_the_newest_is_old_too(storage: Storage, in_bucket: InBucket) -> None:
    sha256 = write(storage, b"hello")
    in_bucket.age(sha256)
    write(storage, b"hello")
    assert storage.collect_garbage(DAY, set) == Removed(0, 0, 0)  # somebody may have looked up the first
    in_bucket.age(sha256)
    assert storage.collect_garbage(DAY, set) == Removed(1, 5, 0)
    assert len(in_bucket.objects(sha256)) == 1
    assert is_there(storage, sha256)


def test_who_knew_an_object_that_was_removed_finds_the_other(storage: Storage, in_bucket: InBucket) -> None:
    sha256 = write(storage, b"hello")
    in_bucket.age(sha256)
    another = in_bucket.storage
    write(another, b"hello")
    in_bucket.age(sha256)
    assert another.collect_garbage(DAY, set).blobs == 1
    assert content_of(storage, sha256) == b"hello"


def test_an_object_that_is_not_ours_is_left_alone(storage: Storage, in_bucket: InBucket) -> None:
    strangers = ["blobs/readme", f"blobs/{'0' * 64}", f"blobs/{'0' * 64}/a", "other/blob"]
    for name in strangers:
        in_bucket.bucket.put(name, b"")
    in_bucket.bucket.age("", 2 * DAY)
    assert storage.collect_garbage(DAY, nothing) == Removed(0, 0, 0)
    assert set(strangers) <= set(in_bucket.bucket.names(""))


@pytest.mark.parametrize("prefix", ["", "a", "a/b.c"])
def test_two_services_may_share_a_bucket(in_bucket: InBucket, storage: Storage, prefix: str) -> None:
    sha256 = write(storage, b"hello")
    in_bucket.age(sha256)
    settings = in_bucket.settings.model_copy(update={"storage_url": f"s3://{in_bucket.bucket.name}/{prefix}"})
    other = open_storage(settings)
    assert not is_there(other, sha256)
    assert is_there(other, write(other, b"hello"))
    assert other.collect_garbage(DAY, nothing) == Removed(0, 0, 0)
    assert is_there(storage, sha256)


def test_a_large_file_goes_in_parts(storage: Storage, in_bucket: InBucket, large: Path, tmp_path: Path) -> None:
    blob = storage.put_file(large)
    (key, stamp) = in_bucket.objects(blob.sha256)
    assert stamp == f"{key}.stamp"
    storage.fetch(blob.sha256, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == large.read_bytes()
    assert in_bucket.leftovers() == []


def test_a_large_file_is_as_old_as_its_end(storage: Storage, in_bucket: InBucket, large: Path) -> None:
    """To S3 it is as old as the beginning of its upload."""
    sha256 = storage.put_file(large).sha256
    key, stamp = in_bucket.objects(sha256)
    in_bucket.bucket.age(key, 2 * DAY)
    in_bucket.bucket.put(stamp, b"")
    assert storage.collect_garbage(DAY, nothing) == Removed(0, 0, 0)
    in_bucket.age(sha256)
    assert storage.collect_garbage(DAY, nothing) == Removed(1, large.stat().st_size, 0)
    assert in_bucket.objects(sha256) == []


def test_a_stamp_without_its_object_is_removed_once_it_is_old(storage: Storage, in_bucket: InBucket) -> None:
    name = f"blobs/{'0' * 64}/{'1' * 32}.stamp"
    in_bucket.bucket.put(name, b"")
    assert not is_there(storage, "0" * 64)
    assert storage.collect_garbage(DAY, nothing) == Removed(0, 0, 0)
    in_bucket.bucket.age(name, 2 * DAY)
    assert storage.collect_garbage(DAY, set) == Removed(0, 0, 1)
    assert in_bucket.bucket.names() == []


def test_an_upload_in_parts_whose_process_was_killed_is_removed(in_bucket: InBucket, large: Path) -> None:
    in_bucket.bucket.server.away("hang", times=2, methods="PUT")
    child = os.fork()
    if child == 0:
        in_bucket.storage.put_file(large)
        os._exit(1)
    wait_until(lambda: in_bucket.bucket.uploads() != [])
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    in_bucket.bucket.server.back()
    (upload,) = in_bucket.bucket.uploads()
    client, bucket = in_bucket.bucket.server.client, in_bucket.bucket
    key = client.list_multipart_uploads(Bucket=bucket.name)["Uploads"][0]["Key"]
    client.upload_part(Bucket=bucket.name, Key=key, UploadId=upload, PartNumber=1, Body=b"one more")
    assert in_bucket.storage.collect_garbage(DAY, nothing) == Removed(0, 0, 0)
    in_bucket.bucket.age("", 2 * DAY)
    assert in_bucket.storage.collect_garbage(DAY, nothing) == Removed(0, 0, 1)
    assert in_bucket.leftovers() == []


def test_an_upload_in_parts_that_fails_leaves_nothing(in_bucket: InBucket, storage: Storage, large: Path) -> None:
    in_bucket.bucket.server.away("400 InvalidRequest", times=2, methods="PUT")
    with pytest.raises(StorageAway):
        storage.put_file(large)
    assert in_bucket.bucket.names() == in_bucket.leftovers() == []


@pytest.mark.parametrize("how", ["503 SlowDown", "500 InternalError", "unheard", "lost"])
@pytest.mark.parametrize("methods", ["PUT", "POST"])
def test_a_write_that_gets_no_answer_is_repeated(
    storage: Storage, in_bucket: InBucket, large: Path, how: str, methods: str
) -> None:
    in_bucket.bucket.server.away(how, times=1, methods=methods)
    sha256 = storage.put_file(large).sha256 if methods == "POST" else write(storage, b"hello")
    assert is_there(storage, sha256)
    assert [name for name in in_bucket.objects(sha256) if not name.endswith(".stamp")] != []


def test_an_object_is_never_replaced(storage: Storage, in_bucket: InBucket) -> None:
    """As when an answer was lost and the request comes once more, much later."""
    (name,) = in_bucket.objects(write(storage, b"hello"))
    client, key = in_bucket.bucket.server.client, f"{in_bucket.bucket.prefix}/{name}"
    with pytest.raises(client.exceptions.ClientError, match="PreconditionFailed"):
        client.put_object(Bucket=in_bucket.bucket.name, Key=key, Body=b"jello", IfNoneMatch="*")


@pytest.mark.parametrize("times", [1, MOST_CUTS])
def test_a_download_that_breaks_off_is_continued(in_bucket: InBucket, storage: Storage, times: int) -> None:
    data = os.urandom(3 * 2**20)
    sha256 = write(storage, data)
    in_bucket.bucket.server.away("cut", times=times, methods="GET")
    assert content_of(storage, sha256) == data


def test_a_download_that_always_breaks_off_fails(in_bucket: InBucket, storage: Storage, tmp_path: Path) -> None:
    sha256 = write(storage, b"hello")
    in_bucket.bucket.server.away("cut", seconds=60, methods="GET")
    with pytest.raises(StorageAway, match="does not answer"):
        storage.fetch(sha256, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize(
    ("answer", "reason", "lasting"),
    [
        ("404 NoSuchBucket", errors.NO_BUCKET, True),
        ("403 InvalidAccessKeyId", errors.UNKNOWN, True),
        ("403 SignatureDoesNotMatch", errors.UNKNOWN, True),
        ("403 AccessDenied", errors.FORBIDDEN, True),
        ("400 IllegalLocationConstraintException", errors.ELSEWHERE, True),
        ("501 NotImplemented", errors.UNCONDITIONAL, True),
        ("403 RequestTimeTooSkewed", errors.CLOCK, True),
        ("503 SlowDown", errors.FAILING, False),
        ("500 InternalError", errors.FAILING, False),
        ("418 Teapot", errors.FAILING, False),
        ("unheard", errors.SILENT, False),
        ("hang", errors.SILENT, False),
    ],
)
def test_what_is_wrong_is_said(storage: Storage, in_bucket: InBucket, answer: str, reason: str, lasting: bool) -> None:
    in_bucket.bucket.server.away(answer, seconds=60)
    with pytest.raises(StorageAway) as refused:
        storage.check()
    assert (str(refused.value), refused.value.lasting) == (reason, lasting)


@pytest.mark.parametrize("code", sorted(errors.FULL))
def test_a_bucket_without_room_is_a_full_storage(storage: Storage, in_bucket: InBucket, code: str) -> None:
    in_bucket.bucket.server.away(f"507 {code}", seconds=60)
    with pytest.raises(OSError, match="No space left") as refused:
        write(storage, b"hello")
    assert refused.value.errno == errno.ENOSPC


def test_a_bucket_that_is_not_there(in_bucket: InBucket) -> None:
    missing = open_storage(in_bucket.settings.model_copy(update={"storage_url": "s3://missing"}))
    for use in (missing.check, lambda: write(missing, b"hello"), lambda: content_of(missing, "0" * 64)):
        with pytest.raises(StorageAway, match=errors.NO_BUCKET):
            use()


def test_an_endpoint_where_nobody_listens(in_bucket: InBucket) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    nobody = open_storage(in_bucket.settings.model_copy(update={"storage_endpoint": address}))
    with pytest.raises(StorageAway, match=errors.SILENT):
        write(nobody, b"hello")
    check_at_start(nobody)


def test_no_process_starts_with_what_waiting_does_not_mend(in_bucket: InBucket) -> None:
    missing = open_storage(in_bucket.settings.model_copy(update={"storage_url": "s3://missing"}))
    with pytest.raises(StorageAway, match=errors.NO_BUCKET):
        check_at_start(missing)


def test_without_credentials_it_says_so(in_bucket: InBucket, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    settings = in_bucket.settings.model_copy(update={"storage_region": "eu-west-1"})  # another client than others have
    with pytest.raises(StorageAway, match=errors.NO_CREDENTIALS):
        open_storage(settings).check()


def test_a_fork_has_connections_of_its_own(storage: Storage, in_bucket: InBucket) -> None:
    """As each process of a worker's pool is one of a process that has looked at its storage."""
    sha256, ours = write(storage, b"hello"), bucket_of(in_bucket.settings)
    assert bucket_of(in_bucket.settings).client is ours.client
    child = os.fork()
    if child == 0:
        own = bucket_of(in_bucket.settings).client is not ours.client and is_there(in_bucket.storage, sha256)
        os._exit(0 if own else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_signed_address_serves_the_file(storage: Storage, method: str) -> None:
    sha256 = write(storage, b"hello")
    download = Download("GET" if method == "GET" else "HEAD", 'attachment; filename="a b.txt"', "text/plain")
    address = storage.signed_address(sha256, 60, download)
    assert address is not None
    answer = httpx.request(method, address)
    assert (answer.status_code, answer.content) == (200, b"hello" if method == "GET" else b"")
    if method == "GET":
        assert answer.headers["Content-Disposition"] == 'attachment; filename="a b.txt"'
        assert httpx.get(address, headers={"Range": "bytes=1-2"}).content == b"el"


def test_a_signed_address_is_of_where_clients_reach_the_storage(in_bucket: InBucket) -> None:
    sha256 = write(in_bucket.storage, b"hello")
    public = in_bucket.settings.model_copy(update={"storage_public_endpoint": "https://files.example.org"})
    address = open_storage(public).signed_address(sha256, 60, Download("GET", None, "text/plain"))
    assert address is not None
    assert address.startswith(f"https://files.example.org/{in_bucket.bucket.name}/team/blobs/{sha256}/")
    assert "X-Amz-Expires=60" in address


@pytest.mark.parametrize("url", ["s3:", "s3://", "s3://A", "s3://ab", "s3:///a", "s3://bucket?a=b", "s3://bucket//a"])
def test_an_address_that_is_no_bucket_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="s3:// and a bucket"):
        open_storage(Settings(storage_url=url, scratch_dir=tmp_path))


@pytest.mark.parametrize("endpoint", ["minio:9000", "http://a/b", "http://user@a", "ftp://a"])
def test_an_endpoint_that_is_no_address_is_refused(endpoint: str) -> None:
    with pytest.raises(ValueError, match="without a path"):
        Settings(storage_endpoint=endpoint)


def test_writing_takes_room_in_scratch_alone_and_gives_it_back(storage: Storage, in_bucket: InBucket) -> None:
    with storage.writer() as writer:
        writer.write(b"hello")
        assert writer.path.parent == in_bucket.scratch / "storage"
        assert in_bucket.bucket.names() == []
        writer.commit()
        assert in_bucket.leftovers() == []
