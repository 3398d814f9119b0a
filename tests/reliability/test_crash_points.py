"""A crash between any two steps of whatever writes: nothing is lost, nothing is done twice, nothing half is visible.

The driver dies before the step that a test is named for, as by SIGKILL. Then the service starts again, the caller who
got no answer asks again, and `World.check` looks at every row and blob.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.reliability.driving import Driver, Order
from tests.reliability.operations import KEY, RECIPE
from tests.reliability.steps import PUBLISHING, STEPS_IN, around_a_commit, commits_before
from tests.reliability.world import World

pytestmark = pytest.mark.sampled(11)

# SQLAlchemy's own event before a COMMIT is no place where it expects an exception: SQLite's lock would stay for 30 s.
TOLD = [
    pytest.param(stored, point, id=f"{stored}-{point:02}-{step.replace('/', '|')}")
    for stored, points in PUBLISHING.items()
    for point in points
    if (step := STEPS_IN[stored]["look"][point]) not in ("COMMIT", "answer")
]


def points() -> Iterator[Any]:
    for stored, operation, point, step in every_step():
        both = stored == "folder" and around_a_commit(operation, point)
        for database in ("sqlite", "postgresql") if both else ("sqlite",):
            name = f"{database}-{stored}-{operation}-{point:02}-{step.replace('/', '|')}"
            yield pytest.param(database, stored, operation, point, id=name)


def every_step() -> Iterator[tuple[str, str, int, str]]:
    for stored, operations in STEPS_IN.items():
        for operation, steps in operations.items():
            for point, step in enumerate(steps):
                yield stored, operation, point, step


@pytest.fixture
def ids(world: World, request: pytest.FixtureRequest) -> Mapping[str, str]:
    """What an operation finds there."""
    operation = request.getfixturevalue("operation")
    if operation == "upload":
        return {}
    world.make_folders()
    ids = {"model": world.add_model(), "other_model": world.add_model()}
    return ids if operation == "submit" else ids | {"job": world.add_job(ids["model"])}


@pytest.fixture
def order(operation: str, world: World, archive: Path, ids: Mapping[str, str]) -> Order:
    return world.order(operation, archive, ids)


@pytest.mark.parametrize(
    ("stored_in", "operation"),
    [(stored, operation) for stored, operations in STEPS_IN.items() for operation in operations],
    indirect=["stored_in"],
)
def test_the_steps_are_these(operation: str, driver: Driver, order: Order, world: World) -> None:
    assert driver.steps(order) == STEPS_IN[world.stored][operation]
    world.restart()
    world.check()


@pytest.mark.parametrize(
    ("database_url", "stored_in", "operation", "point"), list(points()), indirect=["database_url", "stored_in"]
)
def test_a_crash_before(point: int, driver: Driver, order: Order, world: World, request: pytest.FixtureRequest) -> None:
    driver.stop(order, point)
    operation, ids = order["operation"], order["ids"]
    commits = commits_before(world.stored, operation, point)
    if operation in ANOTHER_TRY:
        ANOTHER_TRY[operation](request.getfixturevalue("client"), world, order, commits)
    world.restart()
    world.check()
    jobs = {job.id: job for job in world.jobs()}
    if "job" in ids:
        job = jobs.pop(ids["job"])
        assert (job.state, world.outcomes(job.id)) == ends(operation, commits)
    assert {job.state for job in jobs.values()} <= {"succeeded"}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("operation", ["look"])
@pytest.mark.parametrize(("stored_in", "point"), TOLD, indirect=["stored_in"])
def test_a_worker_that_is_told_to_stop_gives_the_job_back_unless_it_is_done(
    point: int, driver: Driver, order: Order, world: World
) -> None:
    driver.stop(order, point, "tell")
    done = commits_before(world.stored, "look", point) == 2
    (job,) = world.jobs()
    assert job.state == ("succeeded" if done else "queued")
    world.restart()
    world.check()
    assert world.outcomes(job.id) == (["succeeded"] if done else ["released", "succeeded"])


def ends(operation: str, commits: int) -> tuple[str, list[str]]:
    """State and attempts of the job in the end, by what had been committed when the crash came."""
    once, again = ["succeeded"], ["worker_lost", "succeeded"]
    by_commits: dict[str, list[tuple[str, list[str]]]] = {
        "cancel": [("cancelled", ["cancelled"])] * 2,
        "delete": [("succeeded", once)] * 2,
        "look": [("succeeded", once), ("succeeded", again), ("succeeded", once)],
        "fail": [("succeeded", again), ("failed", ["failed"])],
        "try_again": [("succeeded", again), ("succeeded", ["storage_full", "succeeded"])],
        "release": [("succeeded", again), ("succeeded", ["released", "succeeded"])],
        "remove_stale": [("succeeded", once)],
        "collect_garbage": [("succeeded", once)],
    }
    return by_commits[operation][commits] if operation in by_commits else ("succeeded", again)


def upload_again(client: httpx.Client, world: World, order: Order, commits: int) -> None:
    """There is the whole model or none, and another one can be sent."""
    assert len(world.models()) == commits
    assert client.post("/v1/models", content=Path(order["archive"]).read_bytes()).status_code == 201
    assert len(world.models()) == commits + 1


def submit_again(client: httpx.Client, world: World, order: Order, commits: int) -> None:
    """The same key makes the same job."""
    assert len(world.jobs()) == commits
    wanted = {"model": order["ids"]["model"], "recipe": RECIPE, "tags": ["a"]}
    answers = [client.post("/v1/jobs", json=wanted, headers=KEY) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert {answer.json()["id"] for answer in answers} == {job.id for job in world.jobs()}


def cancel_again(client: httpx.Client, world: World, order: Order, commits: int) -> None:
    assert client.post(f"/v1/jobs/{order['ids']['job']}/cancel").status_code == 202


def delete_again(client: httpx.Client, world: World, order: Order, commits: int) -> None:
    answer = client.delete(f"/v1/models/{order['ids']['other_model']}")
    assert answer.status_code == (404 if commits else 204)


ANOTHER_TRY: Mapping[str, Callable[[httpx.Client, World, Order, int], None]] = {
    "upload": upload_again,
    "submit": submit_again,
    "cancel": cancel_again,
    "delete": delete_again,
}
