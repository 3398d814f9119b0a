"""Job programs that are killed, by whom nobody knows: tried again, however they die, and not for ever."""

import pytest

from app.jobs.endings import MAX_ATTEMPTS, MOST_ATTEMPTS
from app.jobs.models import Job
from tests.reliability.stand_in import SCRIPT, StandIns
from tests.reliability.world import World
from worker.tasks import look
from zeropoint.schema.job import FROM_OUTSIDE

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # what is recorded is tested on both

KILLED = "read -r go\nkill -{number:d} $$\nsleep 60"
WITH_PROGRESS = """
read -r go
date +%s%N > checkpoints/weights.part
mv checkpoints/weights.part checkpoints/weights.safetensors
sleep 0.5
kill -9 $$
"""


@pytest.fixture
def job_id(world: World) -> str:
    return world.add_job(world.add_model())


def attempt(world: World, job_id: str, script: str) -> Job:
    """One attempt, as soon as there may be one."""
    world.let_time_pass()
    look("worker", world.settings, StandIns(world.settings.scratch_dir, world.kept.out, script))
    world.session.rollback()
    return world.session.get_one(Job, job_id, populate_existing=True)


@pytest.mark.parametrize("number", sorted(FROM_OUTSIDE), ids=lambda number: number.name)
def test_a_job_whose_program_was_killed_is_tried_again(number: int, world: World, job_id: str) -> None:
    killed = attempt(world, job_id, KILLED.format(number=number))
    assert (killed.state, killed.error) == ("queued", None)
    assert killed.not_before is not None
    assert attempt(world, job_id, SCRIPT).state == "succeeded"
    assert world.outcomes(job_id) == ["killed", "succeeded"]


def test_one_that_is_killed_each_time_fails_with_its_own_code(world: World, job_id: str) -> None:
    for _ in range(MAX_ATTEMPTS):
        job = attempt(world, job_id, KILLED.format(number=9))
    assert (job.state, job.attempts) == ("failed", MAX_ATTEMPTS)
    assert job.error is not None
    assert job.error["code"] == "killed"
    assert f"SIGKILL before it began, in attempt {MAX_ATTEMPTS}" in job.error["detail"]
    assert world.outcomes(job_id) == ["killed"] * (MAX_ATTEMPTS - 1) + ["failed"]


def test_one_that_gets_on_each_time_is_not_given_up(world: World, job_id: str) -> None:
    for _ in range(MAX_ATTEMPTS + 1):
        assert attempt(world, job_id, WITH_PROGRESS).state == "queued"
    assert attempt(world, job_id, SCRIPT).state == "succeeded"


def test_not_even_one_that_gets_on_is_tried_for_ever(world: World, job_id: str) -> None:
    world.session.get_one(Job, job_id).attempts = MOST_ATTEMPTS - 1
    world.session.commit()
    assert attempt(world, job_id, WITH_PROGRESS).state == "failed"
