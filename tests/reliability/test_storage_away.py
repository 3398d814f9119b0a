"""A storage that is a service of its own, and away while a job needs it: the job waits, and uses up no attempt."""

import time
from threading import Thread

import pytest

from app.jobs import service
from tests.reliability.stand_in import SCRIPT, StandIns
from tests.reliability.world import World
from tests.s3 import S3Server
from tests.servers import wait_until
from worker import supervisor
from worker.tasks import look

pytestmark = pytest.mark.parametrize(("database_url", "stored_in"), [("sqlite", "s3")], indirect=True)

HOW = ["503 SlowDown", "404 NoSuchBucket", "403 ExpiredToken", "unheard"]


@pytest.fixture
def job_id(world: World) -> str:
    return world.add_job(world.add_model())


@pytest.fixture
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of a moment."""
    monkeypatch.setattr(supervisor, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(supervisor, "LONGEST_PAUSE", 0.05)


def state(world: World) -> tuple[str, int]:
    (job,) = world.jobs()
    return job.state, job.attempts


def leaving(s3: S3Server, how: str, seconds: float) -> str:
    """A job's program that has the storage away when it has done its work."""
    order = f'{{"how": "{how}", "seconds": {seconds}}}'
    return f"{SCRIPT}\ncurl -sS --fail -d '{order}' {s3.address}/_tests/away"


@pytest.mark.sampled(3)
@pytest.mark.parametrize("how", HOW)
def test_no_job_is_begun_without_its_storage(world: World, job_id: str, s3: S3Server, how: str) -> None:
    s3.away(how, seconds=60)
    look("worker", world.settings, StandIns(world.settings.scratch_dir, world.kept.out))
    assert state(world) == ("queued", 0)
    s3.back()
    world.restart()
    world.check()
    assert world.outcomes(job_id) == ["succeeded"]


@pytest.mark.usefixtures("_hurried")
@pytest.mark.sampled(3)
@pytest.mark.parametrize("how", HOW)
def test_what_a_job_has_done_waits_for_its_storage(world: World, job_id: str, s3: S3Server, how: str) -> None:
    script = leaving(s3, how, seconds=2)
    look("worker", world.settings, StandIns(world.settings.scratch_dir, world.kept.out, script))
    assert world.outcomes(job_id) == ["succeeded"]
    world.check()


@pytest.mark.usefixtures("_hurried")
def test_a_job_that_waited_in_vain_is_tried_again(
    world: World, job_id: str, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "STORAGE_TRIES", 1)
    script = leaving(s3, "403 AccessDenied", seconds=60)
    look("worker", world.settings, StandIns(world.settings.scratch_dir, world.kept.out, script))
    assert state(world) == ("queued", 1)
    s3.back()
    world.restart()
    world.check()
    assert world.outcomes(job_id) == ["storage_unavailable", "succeeded"]


@pytest.mark.usefixtures("_hurried")
def test_a_job_that_is_cancelled_waits_no_longer(world: World, job_id: str, s3: S3Server) -> None:
    script = leaving(s3, "403 AccessDenied", seconds=60)
    prestarted = StandIns(world.settings.scratch_dir, world.kept.out, script)
    looking = Thread(target=look, args=("worker", world.settings, prestarted))
    looking.start()
    wait_until(lambda: world.jobs()[0].phase == "publishing")
    world.session.rollback()
    with world.sessions() as session:
        service.request_cancel(session, job_id)
    looking.join(30)
    assert not looking.is_alive()
    s3.back()
    world.restart()
    assert state(world)[0] == "cancelled"


@pytest.mark.usefixtures("_hurried")
def test_a_program_is_watched_while_its_checkpoint_can_not_be_kept(world: World, job_id: str, s3: S3Server) -> None:
    away = f"""curl -sS --fail -d '{{"how": "403 AccessDenied", "seconds": 60}}' {s3.address}/_tests/away"""
    script = SCRIPT.replace("read -r go", f"read -r go\n{away}").replace("mkdir out", "sleep 60")
    prestarted = StandIns(world.settings.scratch_dir, world.kept.out, script)
    looking = Thread(target=look, args=("worker", world.settings, prestarted))
    looking.start()
    wait_until(lambda: world.jobs()[0].phase == "saving")
    world.session.rollback()
    with world.sessions() as session:
        service.request_cancel(session, job_id)
    looking.join(15)
    assert not looking.is_alive()
    assert state(world)[0] == "cancelled"


@pytest.mark.usefixtures("_hurried")
@pytest.mark.timed
def test_the_lease_is_kept_meanwhile(world: World, job_id: str, s3: S3Server) -> None:
    settings = world.settings.model_copy(update={"lease_seconds": 1.5})
    began = time.monotonic()
    look("worker", settings, StandIns(settings.scratch_dir, world.kept.out, leaving(s3, "503 SlowDown", seconds=4)))
    assert time.monotonic() - began > 3
    assert world.outcomes(job_id) == ["succeeded"]
