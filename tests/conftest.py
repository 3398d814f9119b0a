"""Real parts for every test: PostgreSQL and SQLite, Redis, storage in a folder, the API over HTTP."""

import gc
import os
import re
import shutil
import sqlite3
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker
from xdist.scheduler import LoadGroupScheduling  # type: ignore[import-untyped]

from app.database import create_engine_for, create_sessions, migrate
from app.main import create_app, create_services
from app.settings import Settings
from app.storage import Storage, open_storage
from tests.effort import WHOLE_SUITE, in_turn
from tests.otlp import Receiver, receiver
from tests.postgresql import Databases, PostgresServer, postgresql_server
from tests.s3 import CREDENTIALS, S3Server, TestBucket, s3_server
from tests.servers import api_thread, redis_server, two_free_ports
from tests.service.running import Running, service
from tests.sources import Files, serving

# Threads of torch that wait must not spin on the cores that all processes share: with two of them it took half of all
# processor time. Nothing above imports torch, which looks at this when it is loaded, here and in what tests start.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Python looks for garbage by reading all objects there are: millions, once every module is imported. That took a sixth
# of the tests' processor time. Imports leave no garbage; what they made is left out from then on.
gc.disable()

# A machine that others share is slow, and that is no fault of what is tested.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

GROUPS = ("chaos", "service", "timed")
"""Markers whose files run one after another on one process."""
QUEUE = ("service", "chaos", "own_service", "slow", "", "timed")
"""What begins first: the groups that take longest, then files with long tests; what looks at the clock has few beside
it in the end."""
TIMED = "@pytest.mark.timed\n"
TIMED_TEST = re.compile(rf"^{TIMED}(?:.*\n)*?def (\w+)", re.MULTILINE)
DATABASE = re.compile(r"\b(sqlite|postgresql)\b")


@cache
def marker_of(file: Path) -> str:
    """Return the marker that decides where a file's tests run, and when; "" for none.

    It is looked for in the text: xdist tells the controlling process of its own groups by tests' ids, which since
    pytest 9.2 it can no longer change.
    """
    text = file.read_text().replace(TIMED, "")  # these tests go without their file
    return next((name for name in ("own_service", *GROUPS, "slow") if f"pytest.mark.{name}" in text), "")


@cache
def timed_tests(file: Path) -> frozenset[str]:
    """Return the tests of a file that look at the clock, where others of the file do not."""
    return frozenset(TIMED_TEST.findall(file.read_text()))


def marker_of_test(root: Path, nodeid: str) -> str:
    """Return the marker that decides where one test runs, and when."""
    file, _, test = nodeid.partition("::")
    return "timed" if test.partition("[")[0] in timed_tests(root / file) else marker_of(root / file)


class GroupsAndFiles(LoadGroupScheduling):  # type: ignore[misc]
    """Keep the files of a group on one process, and the tests of a file: what a module makes once is made once."""

    def _split_scope(self, nodeid: str) -> str:
        marker = marker_of_test(self.config.rootpath, nodeid)
        return marker if marker in GROUPS else nodeid.partition("::")[0]


def pytest_xdist_auto_num_workers() -> int:
    """Return one process more than cores, at most four: tests wait for other processes half of their time."""
    return min((os.cpu_count() or 1) + 1, 4)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadGroupScheduling | None:
    if config.option.dist != "loadgroup":
        return None
    config.option.loadscopereorder = False  # the order is QUEUE's
    return GroupsAndFiles(config, log)


def pytest_configure(config: pytest.Config) -> None:
    if config.option.dist == "loadgroup":
        os.environ[WHOLE_SUITE] = "1"  # the processes that run the tests see it too
        # All cores have a process at work. Threads that share tiny tensors took a sixth of its time. The processes of
        # jobs have an environment of their own, and as many threads as a user's.
        os.environ.setdefault("OMP_NUM_THREADS", "1")


def take_turns(items: Sequence[pytest.Item]) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """Return what this commit takes, and what it leaves to others of families marked `sampled`; each keeps one."""
    families = Counter(item.nodeid.partition("[")[0] for item in items)
    position: Counter[str] = Counter()
    kept, left = list[pytest.Item](), list[pytest.Item]()
    for item in items:
        marker, (family, member, _) = item.get_closest_marker("sampled"), item.nodeid.partition("[")
        taken = marker is None or not member or in_turn(min(marker.args[0], families[family]), position[family])
        (kept if taken else left).append(item)
        position[family] += 1
    return kept, left


def take_databases(items: Sequence[pytest.Item]) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """Return what this commit takes, and what it leaves to others, of tests of HTTP: each is done on one database.

    What differs between databases is below: tests/app/jobs and tests/reliability are done on both.
    """
    over_http = Counter(DATABASE.sub("", item.nodeid) for item in items if item.nodeid.startswith("tests/app/api/"))
    position = {test: number for number, (test, times) in enumerate(over_http.items()) if times > 1}
    kept, left = list[pytest.Item](), list[pytest.Item]()
    for item in items:
        test = DATABASE.sub("", item.nodeid)
        other = "postgresql" in item.nodeid
        (kept if test not in position or in_turn(2, position[test] + other) else left).append(item)
    return kept, left


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with what takes longest."""
    kept, left = take_turns(items)
    kept, others = take_databases(kept)
    config.hook.pytest_deselected(items=[*left, *others])
    items[:] = sorted(kept, key=lambda item: QUEUE.index(marker_of_test(config.rootpath, item.nodeid)))


def pytest_collection_finish(session: pytest.Session) -> None:
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    gc.enable()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What tests recorded of themselves is in every log: how much a run saw, also when it passed."""
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            for name, value in report.user_properties:
                terminalreporter.write_line(f"{name}: {value}")


@pytest.fixture(scope="session")
def environment() -> Mapping[str, str]:
    """This process's environment without any setting of ours; programs are not compiled, which takes long."""
    theirs = {name: value for name, value in os.environ.items() if not name.startswith("ZEROPOINT_")}
    return theirs | {"ZEROPOINT_COMPILE_SECONDS": "0"}


@pytest.fixture(scope="session")
def traced() -> Iterator[Receiver]:
    """What `running` sends of its traces."""
    with receiver() as found:
        yield found


@pytest.fixture(scope="session")
def file_server() -> Iterator[Files]:
    """A server from which `running` may import."""
    with serving() as files:
        yield files


@pytest.fixture(scope="session")
def running(
    tmp_path_factory: pytest.TempPathFactory, environment: Mapping[str, str], traced: Receiver, file_server: Files
) -> Iterator[Running]:
    """One service on SQLite for all tests that don't end it."""
    observed = {"ZEROPOINT_METRICS_PORT": str(two_free_ports()), "ZEROPOINT_OTLP_ENDPOINT": traced.address}
    allowed = {f"ZEROPOINT_{name.upper()}": value for name, value in file_server.settings.items()}
    with service(tmp_path_factory.mktemp("service"), {**environment, **observed, **allowed}) as started:
        yield started


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with redis_server(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresServer]:
    with postgresql_server() as server:
        yield server


@pytest.fixture(scope="session")
def databases(postgresql: PostgresServer) -> Iterator[Databases]:
    with closing(Databases(postgresql)) as databases:
        yield databases


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server, with its credentials in the environment of this process and of what it starts."""
    with pytest.MonkeyPatch.context() as environment, s3_server(tmp_path_factory.mktemp("s3") / "log") as server:
        for name, value in CREDENTIALS.items():
            environment.setenv(name, value)
        yield server


@pytest.fixture
def bucket(s3: S3Server) -> Iterator[TestBucket]:
    yield s3.fresh_bucket()
    s3.back()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    migrate(Settings(database_url=f"sqlite:///{path}"))
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A fresh migrated database."""
    if request.param == "sqlite":
        path = tmp_path / "zeropoint.db"
        shutil.copy(request.getfixturevalue("sqlite_template"), path)
        yield f"sqlite:///{path}"
        return
    yield request.getfixturevalue("databases").fresh()


@pytest.fixture
def stored_in(request: pytest.FixtureRequest, tmp_path: Path) -> Mapping[str, str]:
    """The settings of an empty storage: a folder, or a bucket where a test asks for "s3"."""
    if getattr(request, "param", "folder") == "folder":
        return {"storage_url": f"file:{tmp_path / 'storage'}"}
    bucket: TestBucket = request.getfixturevalue("bucket")
    return {"storage_url": bucket.url, "storage_endpoint": bucket.server.address}


@pytest.fixture
def settings(database_url: str, redis_url: str, stored_in: Mapping[str, Any], tmp_path: Path) -> Settings:
    return Settings(
        **stored_in,
        database_url=database_url,
        broker_url=redis_url,
        broker_prefix=f"{uuid.uuid4().hex}:",
        scratch_dir=tmp_path / "scratch",
    )


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    engine = create_engine_for(settings)
    yield engine
    engine.dispose()


@pytest.fixture
def sessions(engine: Engine) -> sessionmaker[Session]:
    return create_sessions(engine)


@pytest.fixture
def session(sessions: sessionmaker[Session]) -> Iterator[Session]:
    with sessions() as session:
        yield session


@pytest.fixture
def storage(settings: Settings) -> Storage:
    return open_storage(settings)


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """One API for the whole run; `client` gives it the parts of each test."""
    folder = tmp_path_factory.mktemp("api")
    app = create_app(Settings(database_url="sqlite://", storage_url=f"file:{folder}"), reconciles=False)
    with api_thread(app) as client:
        client.app = app  # type: ignore[attr-defined]
        yield client


@pytest.fixture
def served_with(served: httpx.Client, settings: Settings) -> Iterator[Callable[..., httpx.Client]]:
    """The API with other settings, which the test names."""
    made: list[Any] = []

    def serve(**changes: Any) -> httpx.Client:
        made.append(create_services(settings.model_copy(update=changes)))
        served.app.state.services = made[-1]  # type: ignore[attr-defined]
        return served

    yield serve
    for services in made:
        services.engine.dispose()
        services.celery.close()


@pytest.fixture
def client(served: httpx.Client, settings: Settings) -> Iterator[httpx.Client]:
    services = create_services(settings)
    served.app.state.services = services  # type: ignore[attr-defined]
    yield served
    deadline = time.monotonic() + 10
    while services.engine.pool.checkedout() and time.monotonic() < deadline:  # type: ignore[attr-defined]
        time.sleep(0.01)  # a probe or a poll that nobody waits for any more: its connection would be lost in use
    services.engine.dispose()
    services.celery.close()
