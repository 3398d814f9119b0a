"""What `zeropoint projects …` and `zeropoint keys …` do, straight in the database: whoever can run them owns it."""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from app.accounts import keys, projects, quotas
from app.accounts.caller import DEFAULT_PROJECT, Caller, Role, called_by
from app.accounts.scope import ScopedSession, create_scoped_sessions
from app.database import clock, create_engine_for, trouble_of
from app.errors import ServiceError
from app.settings import Settings, get_settings

ACTOR = "command line"

Of = Callable[[argparse.Namespace, ScopedSession], None]


def run(options: argparse.Namespace) -> int:
    """Run one of these commands and return its exit code."""
    work = WORK[options.what, options.action]
    project = getattr(options, "project", DEFAULT_PROJECT)
    settings = _settings(options)
    if missing := _missing_file(settings):
        print(f"There is no database {missing}. Name the folder of a zeropoint serve: --data DIR.", file=sys.stderr)
        return 1
    try:
        with called_by(Caller(project, Role.ADMIN, ACTOR)), _session(settings) as session:
            work(options, session)
    except ServiceError as refused:
        print(refused, file=sys.stderr)
        return 1
    except SQLAlchemyError as error:
        trouble = trouble_of(error)
        if trouble is None:
            raise
        print(f"The database: {trouble.value}. Check ZEROPOINT_DATABASE_URL, or name --data.", file=sys.stderr)
        return 1
    return 0


def _settings(options: argparse.Namespace) -> Settings:
    settings = get_settings()
    if options.data is None:
        return settings
    return settings.model_copy(update={"database_url": f"sqlite:///{options.data.resolve()}/zeropoint.db"})


def _missing_file(settings: Settings) -> str | None:
    """Return the file of an SQLite that is not there: to open it would make an empty one, with its folder."""
    _, is_file, path = settings.database_url.partition("sqlite:///")
    return path if is_file and not path.startswith("file:") and not Path(path.partition("?")[0]).exists() else None


@contextmanager
def _session(settings: Settings) -> Iterator[ScopedSession]:
    engine = create_engine_for(settings)
    try:
        with create_scoped_sessions(engine)() as session:
            yield session
    finally:
        engine.dispose()


def _create_project(options: argparse.Namespace, session: ScopedSession) -> None:
    print(projects.create(session, options.name).name)


def _list_projects(_: argparse.Namespace, session: ScopedSession) -> None:
    for project in projects.every(session):
        print(f"{project.name:<30} {_day(project.created_at)} {_spell(project.limits)}".rstrip())


def _limit_project(options: argparse.Namespace, session: ScopedSession) -> None:
    changes = {name: value for name, value in vars(options).items() if name in quotas.NAMES}
    given = quotas.give(session, options.name, changes)
    print(f"{given.name}: {_spell(given.limits) or 'the quotas of the settings'}")


def _spell(limits: Mapping[str, object]) -> str:
    return " ".join(f"{name}={value}" for name, value in sorted(limits.items()))


def _create_key(options: argparse.Namespace, session: ScopedSession) -> None:
    projects.read(session, options.project)
    ends = clock(session) + timedelta(days=options.days) if options.days is not None else None
    _show(keys.create(session, options.project, options.name, Role(options.role), ends))


def _list_keys(options: argparse.Namespace, session: ScopedSession) -> None:
    projects.read(session, options.project)
    before: str | None = None
    while rows := keys.page(session, before, 100):
        for row in rows:
            print(f"{row.id}  {row.prefix}…  {row.role:<10} {_state(row):<22} {row.name}")
        before = rows[-1].id


def _rotate_key(options: argparse.Namespace, session: ScopedSession) -> None:
    _show(keys.rotate(session, options.id, timedelta(seconds=options.overlap_seconds)))


def _revoke_key(options: argparse.Namespace, session: ScopedSession) -> None:
    print(f"{keys.revoke(session, options.id).id} is revoked")


WORK: dict[tuple[str, str], Of] = {
    ("projects", "create"): _create_project,
    ("projects", "list"): _list_projects,
    ("projects", "limit"): _limit_project,
    ("keys", "create"): _create_key,
    ("keys", "list"): _list_keys,
    ("keys", "rotate"): _rotate_key,
    ("keys", "revoke"): _revoke_key,
}


def _show(made: keys.NewKey) -> None:
    """Print the secret alone on standard output: scripts keep it, people read the rest."""
    print(
        f"{made.row.id} ({made.row.role} of {made.row.project}). Keep the key: it is not shown again.", file=sys.stderr
    )
    print(made.secret)


def _state(row: keys.KeyRow) -> str:
    if row.revoked_at:
        return f"revoked {_day(row.revoked_at)}"
    return f"until {_day(row.expires_at)}" if row.expires_at else "holds"


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d}"
