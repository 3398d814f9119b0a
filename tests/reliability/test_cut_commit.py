"""The connection is cut while a transaction commits: nobody can know whether it did, so asking again must be safe."""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from app.jobs import claims, endings, queries
from app.settings import Settings
from sandbox.policy import Sandbox
from tests.factories import claim_one
from tests.reliability.cutting import Cut, Wire, wire_to
from tests.reliability.operations import KEY, RECIPE
from tests.reliability.stand_in import StandIns
from tests.reliability.world import World
from tests.servers import wait_until
from worker.heartbeat import Heartbeat
from worker.supervisor import WorkerContext, record
from worker.tasks import look
from zeropoint.schema.job import Progress

pytestmark = [
    pytest.mark.sampled(2),
    pytest.mark.parametrize("database_url", ["postgresql"], indirect=True),
    pytest.mark.parametrize("cut", ["before", "after"]),
]


@pytest.fixture
def wire(database_url: str) -> Iterator[tuple[Wire, str]]:
    with wire_to(database_url) as (wire, near):
        yield wire, near.render_as_string(hide_password=False)


@pytest.fixture
def settings(settings: Settings, wire: tuple[Wire, str]) -> Settings:
    return settings.model_copy(update={"database_url": wire[1]})


@pytest.fixture
def job_id(world: World) -> str:
    return world.add_job(world.add_model())


def committed(cut: Cut) -> bool:
    return cut == "after"


def test_a_submit_that_gets_no_answer_is_repeated_under_its_key(
    cut: Cut, wire: tuple[Wire, str], client: httpx.Client, world: World
) -> None:
    wanted = {"model": world.add_model(), "recipe": RECIPE}
    wire[0].cut = cut
    lost = client.post("/v1/jobs", json=wanted, headers=KEY)
    assert (lost.status_code, lost.json()["code"]) == (503, "database_unavailable")
    assert len(world.jobs()) == committed(cut)
    again = client.post("/v1/jobs", json=wanted, headers=KEY)
    assert again.status_code == 202
    assert [job.id for job in world.jobs()] == [again.json()["id"]]
    world.restart()
    world.check()


def test_an_upload_that_gets_no_answer_is_there_whole_or_not_at_all(
    cut: Cut, wire: tuple[Wire, str], client: httpx.Client, world: World, archive: Path
) -> None:
    wire[0].cut = cut
    lost = client.post("/v1/models", content=archive.read_bytes())
    assert (lost.status_code, lost.json()["code"]) == (503, "database_unavailable")
    assert len(world.models()) == committed(cut)
    world.check()


def test_a_claim_of_which_nobody_knows_runs_out(cut: Cut, wire: tuple[Wire, str], world: World, job_id: str) -> None:
    wire[0].cut = cut
    look("first", world.settings, StandIns(world.settings.scratch_dir, world.kept.out))
    assert [job.state for job in world.jobs()] == ["running" if committed(cut) else "queued"]
    world.restart()
    world.check()
    assert world.outcomes(job_id) == (["worker_lost", "succeeded"] if committed(cut) else ["succeeded"])


@pytest.mark.parametrize("end", ["succeed", "give_back"])
def test_an_end_is_recorded_once(end: str, cut: Cut, wire: tuple[Wire, str], world: World, job_id: str) -> None:
    claim, workshop = claim_one(world.session), workshop_in(world)
    ends = {
        "succeed": partial(endings.succeed, claim=claim, verdict="passed", products=()),
        "give_back": partial(endings.release, claim=claim),
    }
    wire[0].cut = cut
    record(workshop, ends[end])
    assert wire[0].cuts == 1
    states = [event.data["state"] for event in queries.events(world.session, job_id, 0, 100)]
    assert states == ["queued", "running", "succeeded" if end == "succeed" else "queued"]
    (job,) = world.jobs()
    assert job.attempts == (1 if end == "succeed" else 0)


def test_a_beat_is_repeated_and_tells_a_phase_once(cut: Cut, wire: tuple[Wire, str], world: World, job_id: str) -> None:
    claim, progress = claim_one(world.session), Progress(phase="saving", done=1, total=2)
    with Heartbeat(world.sessions, claim, lease_seconds=60) as heartbeat:
        wire[0].cut = cut
        heartbeat.report(partial(claims.report_progress, claim=claim, progress=progress, eta_seconds=None))
        heartbeat.flush(30)
        assert heartbeat.claim_status is claims.ClaimStatus.GO_ON
    assert wire[0].cuts == 1
    (job,) = world.jobs()
    assert (job.phase, job.done) == ("saving", 1)
    assert [event.kind for event in queries.events(world.session, job_id, 0, 100)] == ["state", "state", "phase"]


@pytest.mark.timed
def test_a_lease_is_put_off_again(cut: Cut, wire: tuple[Wire, str], world: World, job_id: str) -> None:
    claim = claim_one(world.session)
    with Heartbeat(world.sessions, claim, lease_seconds=6) as heartbeat:
        wire[0].cut = cut
        wait_until(lambda: wire[0].cuts == 1)
        time.sleep(6)  # longer than what was left of the lease
        assert heartbeat.claim_status is claims.ClaimStatus.GO_ON


def workshop_in(world: World) -> WorkerContext:
    prestarted = StandIns(world.settings.scratch_dir, world.kept.out)
    return WorkerContext(world.sessions, world.storage, Sandbox(), prestarted, world.settings)
