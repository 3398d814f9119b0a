"""Rows of uploads in parts, on both databases: what is taken, claimed, recorded and deleted."""

import random
from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session, sessionmaker

from app.accounts.caller import ANYONE, called_by
from app.accounts.scope import create_scoped_sessions
from app.api.errors import STATUSES
from app.catalog.models import Dataset
from app.catalog.service import Upload
from app.database import clock
from app.errors import Conflict, Gone, Invalid, NotFound, ServiceError, TooLarge
from app.intake.limits import Limits
from app.jobs.retention import collect_garbage
from app.settings import Settings
from app.storage import Storage
from app.uploads import checking, service
from app.uploads.checking import Claimed
from app.uploads.models import ResumableUpload, UploadPart
from app.uploads.refusals import as_column, from_column
from app.uploads.service import SALT_BYTES, NewUpload
from app.uploads.status import UploadState
from tests.app.jobs.test_retention import age
from tests.app.storages import is_there
from tests.factories import KnownUpload, safetensors

DATA = safetensors(x=("F32", [4, 3]))
HOUR = timedelta(hours=1)
NEW = NewUpload("dataset", "name", "data.safetensors", len(DATA), "purpose ZGF0YXNldA==")


@pytest.fixture(autouse=True)
def somebody() -> Iterator[None]:
    with called_by(ANYONE):
        yield


@pytest.fixture
def scoped(sessions: sessionmaker[Session]) -> Iterator[Session]:
    with create_scoped_sessions(sessions.kw["bind"])() as session:
        yield session


def add(session: Session, storage: Storage, upload_id: str, start: int, data: bytes) -> int:
    with storage.writer() as writer:
        writer.write(service.salt() + data)
        return service.add_part(session, upload_id, start, writer.commit(), HOUR)


def whole(session: Session, storage: Storage) -> str:
    """An upload of which all is here."""
    upload_id = service.create(session, NEW, HOUR).id
    add(session, storage, upload_id, 0, DATA[:50])
    add(session, storage, upload_id, 50, DATA[50:])
    return upload_id


def claimed(session: Session, upload_id: str, lease: timedelta = HOUR) -> Claimed:
    claim = checking.claim(session, upload_id, lease)
    assert claim is not None
    return claim


def state(session: Session, upload_id: str) -> str:
    found = service.read(session, upload_id).state
    session.rollback()
    return found


def finish(session: Session, storage: Storage, claim: Claimed) -> str | None:
    with storage.writer() as received, storage.writer() as fresh:
        upload = KnownUpload(received, fresh, Limits(), claim.filename)
        return checking.succeed(session, storage, claim, checking.examine(storage, claim, upload))


def test_parts_in_any_order_become_the_file_or_nothing(scoped: Session, storage: Storage) -> None:
    """Clients that repeat, skip and overlap: a part is taken exactly if it begins where the upload ends."""
    chosen = random.Random(18)
    upload_id, ends, refused = service.create(scoped, NEW, HOUR).id, 0, 0
    while ends < len(DATA):
        start = chosen.choice([0, ends, ends, max(0, ends - 3), ends + 1])
        part = DATA[start : start + chosen.randrange(1, 30)]
        if start == ends:
            assert add(scoped, storage, upload_id, start, part) == ends + len(part)
            ends += len(part)
        else:
            with pytest.raises(Conflict, match=f"the upload ends at byte {ends}"):
                add(scoped, storage, upload_id, start, part)
            refused += 1
    assert refused > 3
    claim = claimed(scoped, upload_id)
    assert b"".join(b"".join(storage.open(sha256, SALT_BYTES)) for sha256 in claim.parts) == DATA
    result = finish(scoped, storage, claim)
    assert scoped.scalars(select(Dataset.id)).all() == [result]


def test_only_who_holds_the_claim_records_an_outcome(scoped: Session, storage: Storage) -> None:
    """The first process was away for longer than its lease: what it finds out then is not recorded."""
    upload_id = whole(scoped, storage)
    first = claimed(scoped, upload_id, timedelta(0))
    second = claimed(scoped, upload_id)
    assert checking.claim(scoped, upload_id, HOUR) is None
    assert not checking.renew(scoped, first, HOUR)
    assert checking.renew(scoped, second, HOUR)
    checking.refuse(scoped, storage, first, Invalid("dataset_invalid", "No.", "Do."))
    checking.fail(scoped, first, Invalid("dataset_invalid", "No.", "Do."), HOUR)
    checking.postpone(scoped, first, timedelta(0))
    assert finish(scoped, storage, first) is None
    assert scoped.scalars(select(Dataset)).all() == []
    assert state(scoped, upload_id) == "checking"
    result = finish(scoped, storage, second)
    assert service.read(scoped, upload_id).result_id == result
    assert scoped.scalars(select(Dataset.id)).all() == [result]
    assert scoped.scalars(select(UploadPart)).all() == []


def test_what_waits_is_found_once_its_pause_is_over(scoped: Session, storage: Storage) -> None:
    waiting, paused, held = (whole(scoped, storage) for _ in range(3))
    service.create(scoped, NEW, HOUR)
    checking.postpone(scoped, claimed(scoped, paused), HOUR, Invalid("dataset_invalid", "No.", "Do."))
    claimed(scoped, held)
    assert checking.to_do(scoped, UploadState.CHECKING, 10) == [waiting]
    service.ask_again(scoped, paused)
    service.ask_again(scoped, held)
    assert checking.to_do(scoped, UploadState.CHECKING, 10) == [waiting, paused]


def test_a_check_that_fails_is_tried_three_times_and_again_by_asking(scoped: Session, storage: Storage) -> None:
    upload_id = whole(scoped, storage)
    for expected in ("checking", "checking", "failed"):
        checking.fail(scoped, claimed(scoped, upload_id), Invalid("dataset_invalid", "No.", "Do."), timedelta(0))
        assert state(scoped, upload_id) == expected
    assert checking.claim(scoped, upload_id, HOUR) is None
    with pytest.raises(Gone):
        service.read_to_resume(scoped, upload_id)
    assert service.ask_again(scoped, upload_id).state == "checking"
    assert finish(scoped, storage, claimed(scoped, upload_id))


def test_what_expired_is_deleted_with_its_bytes_and_forgotten_a_week_later(
    scoped: Session, session: Session, sessions: sessionmaker[Session], storage: Storage, settings: Settings
) -> None:
    gone, kept = (service.create(scoped, NEW, HOUR).id for _ in range(2))
    for upload_id in (gone, kept):
        add(scoped, storage, upload_id, 0, DATA[:50])
    blobs = {part.upload_id: part.sha256 for part in scoped.scalars(select(UploadPart))}
    past = clock(scoped) - timedelta(seconds=1)
    scoped.rollback()
    session.execute(update(ResumableUpload).where(ResumableUpload.id == gone).values(expires_at=past))
    session.commit()
    for sha256 in blobs.values():
        age(storage, sha256)
    assert collect_garbage(sessions, storage, settings).expired == 1
    assert (is_there(storage, blobs[gone]), is_there(storage, blobs[kept])) == (False, True)
    with pytest.raises(Gone):
        add(scoped, storage, gone, 50, DATA[50:])
    week = clock(scoped) - service.KEEP_ENDED
    scoped.rollback()
    session.execute(update(ResumableUpload).where(ResumableUpload.id == gone).values(ended_at=week))
    session.commit()
    assert collect_garbage(sessions, storage, settings).expired == 0
    with pytest.raises(NotFound):
        service.read(scoped, gone)
    assert state(scoped, kept) == "receiving"


def test_an_upload_has_at_most_so_many_parts(
    scoped: Session, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "MOST_PARTS", 2)
    upload_id = service.create(scoped, NEW, HOUR).id
    for start in range(2):
        add(scoped, storage, upload_id, start, DATA[start : start + 1])
    with pytest.raises(TooLarge):
        add(scoped, storage, upload_id, 2, DATA[2:3])
    scoped.rollback()
    assert service.read(scoped, upload_id).received_bytes == 2


def test_equal_parts_are_blobs_of_their_own(scoped: Session, storage: Storage) -> None:
    """One upload's parts are deleted at once: a blob that another upload had too would be missing there."""
    first, second = whole(scoped, storage), whole(scoped, storage)
    service.delete(scoped, storage, first)
    assert finish(scoped, storage, claimed(scoped, second))


@pytest.mark.parametrize("kind", STATUSES)
def test_a_refusal_is_read_as_it_was_written(kind: type[ServiceError]) -> None:
    refusal = kind("request_invalid", "What.", "Do.")
    refusal.more_faults, refusal.retry_after = 3, 5
    again = from_column(as_column(refusal))
    assert (type(again), as_column(again)) == (kind, as_column(refusal))


def test_the_file_that_is_checked_is_the_one_that_came(scoped: Session, storage: Storage) -> None:
    claim = claimed(scoped, whole(scoped, storage))
    with storage.writer() as received, storage.writer() as fresh:
        examined = checking.examine(storage, claim, Upload(received, fresh, Limits(), claim.filename))
        assert received.path.read_bytes() == DATA
    assert (examined.columns["bytes"], examined.columns["samples"]) == (len(DATA), 4)
