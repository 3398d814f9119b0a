"""API keys: made, used, replaced, ended."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from app.accounts import audit, keys
from app.accounts.caller import Role, called_by
from app.accounts.models import Key
from app.accounts.scope import create_scoped_sessions
from app.database import clock
from app.errors import Conflict, Fault, Invalid, NotFound, Unauthorized
from tests.factories import member_of


@pytest.fixture
def mine(engine: Engine) -> Iterator[Session]:
    """A session of an admin of the project `ours`."""
    with create_scoped_sessions(engine)() as session, called_by(member_of("ours")):
        yield session


def holds(session: Session, secret: str) -> bool:
    try:
        return keys.known(session, secret).caller.project == "ours"
    except Unauthorized:
        return False


def test_a_key_names_its_project_and_role(mine: Session, session: Session) -> None:
    made = keys.create(mine, "ours", "ci", Role.SUBMITTER)
    known = keys.known(session, made.secret)
    assert (known.caller.project, known.caller.role, known.caller.actor) == ("ours", Role.SUBMITTER, made.row.id)


def test_of_a_secret_only_digest_and_beginning_are_kept(mine: Session, session: Session) -> None:
    made = keys.create(mine, "ours", "ci", Role.READER)
    row = session.scalars(select(Key)).one()
    kept = [str(getattr(row, column.key)) for column in Key.__table__.c]
    assert made.secret.startswith("zp_")
    assert row.prefix == made.secret[:11]
    assert not [value for value in kept if made.secret[11:] in value]


def test_a_revoked_key_holds_no_more_from_then_on(mine: Session, session: Session) -> None:
    made = keys.create(mine, "ours", "ci", Role.READER)
    assert holds(session, made.secret)
    keys.revoke(mine, made.row.id)
    session.rollback()
    session.expire_all()
    assert not holds(session, made.secret)
    assert keys.revoke(mine, made.row.id).revoked_at is not None  # again changes nothing


def test_an_expired_key_holds_no_more(mine: Session, session: Session) -> None:
    made = keys.create(mine, "ours", "ci", Role.READER, clock(session) + timedelta(hours=1))
    assert holds(session, made.secret)
    made.row.expires_at = clock(session) - timedelta(seconds=1)
    mine.commit()
    session.rollback()
    session.expire_all()
    assert not holds(session, made.secret)


def test_a_key_can_not_be_made_that_has_expired(mine: Session, session: Session) -> None:
    with pytest.raises(Invalid):
        keys.create(mine, "ours", "ci", Role.READER, clock(session))


FAR = ["9999-12-31T23:59:59-14:00", "9999-12-31T23:59:59.999999+00:00", "2999-01-01T00:00:00+00:00"]


@pytest.mark.parametrize("far", FAR)
def test_a_key_can_not_be_made_for_ever_and_a_day(mine: Session, far: str) -> None:
    with pytest.raises(Invalid) as refused:
        keys.create(mine, "ours", "ci", Role.READER, datetime.fromisoformat(far))
    assert refused.value.faults == (Fault("/expires_at", "is too far"),)


def test_the_key_that_holds_longest_can_be_replaced(mine: Session) -> None:
    made = keys.create(mine, "ours", "ci", Role.READER, clock(mine) + keys.LONGEST_LIFE)
    assert keys.rotate(mine, made.row.id, timedelta(days=7)).row.expires_at is not None


@pytest.mark.parametrize("end", [lambda s, k: keys.rotate(s, k, timedelta(0)), keys.revoke], ids=["rotate", "revoke"])
def test_two_who_end_a_key_at_once_end_it_once(
    mine: Session, engine: Engine, end: Callable[[Session, str], object]
) -> None:
    made = keys.create(mine, "ours", "ci", Role.READER)

    def ended(_: int) -> bool:
        with create_scoped_sessions(engine)() as session, called_by(member_of("ours")):
            try:
                end(session, made.row.id)
            except Conflict:
                return False
            return True

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(ended, range(4)))
    mine.rollback()
    assert [entry.action for entry in audit.page(mine, None, 10) if entry.target == made.row.id][1:] == ["key.created"]


@pytest.mark.parametrize("overlap", [timedelta(0), timedelta(hours=1)])
def test_a_replaced_key_holds_for_the_overlap(mine: Session, session: Session, overlap: timedelta) -> None:
    old = keys.create(mine, "ours", "ci", Role.SUBMITTER)
    new = keys.rotate(mine, old.row.id, overlap)
    assert (new.row.name, new.row.role) == ("ci", "submitter")
    assert holds(session, new.secret)
    assert holds(session, old.secret) == (overlap > timedelta(0))
    if not overlap:
        with pytest.raises(Conflict):
            keys.rotate(mine, old.row.id, overlap)


def test_a_replacement_never_lets_a_key_hold_longer(mine: Session, session: Session) -> None:
    ends = clock(session) + timedelta(hours=1)
    old = keys.create(mine, "ours", "ci", Role.READER, ends)
    keys.rotate(mine, old.row.id, timedelta(days=7))
    assert old.row.expires_at == ends


@pytest.mark.parametrize("secret", ["zp_" + "A" * 43, "zp_", "zp_" + "é" * 43, "x"])
def test_what_nobody_made_is_refused(session: Session, secret: str) -> None:
    with pytest.raises(Unauthorized):
        keys.known(session, secret)


def test_keys_of_another_project_are_not_there(mine: Session) -> None:
    made = keys.create(mine, "ours", "ci", Role.READER)
    with called_by(member_of("theirs")):
        mine.expunge_all()
        assert keys.page(mine, None, 10) == []
        for what in (keys.read, keys.revoke):
            with pytest.raises(NotFound):
                what(mine, made.row.id)


def test_the_last_use_is_worth_a_write_once_a_minute(mine: Session, session: Session) -> None:
    made = keys.create(mine, "ours", "ci", Role.READER)
    assert keys.known(session, made.secret).stale
    keys.note_used(session, made.row.id)
    assert not keys.known(session, made.secret).stale


def test_every_change_is_in_the_audit_trail(mine: Session) -> None:
    made = keys.create(mine, "ours", "ci", Role.READER)
    new = keys.rotate(mine, made.row.id, timedelta(0))
    keys.revoke(mine, new.row.id)
    done = [(entry.action, entry.target) for entry in audit.page(mine, None, 10)]
    assert done == [
        ("key.revoked", new.row.id),
        ("key.created", new.row.id),
        ("key.rotated", made.row.id),
        ("key.created", made.row.id),
    ]
