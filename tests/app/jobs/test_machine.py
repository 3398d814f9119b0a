"""Random histories of jobs, workers and a clock, against a small model of what must hold, on both databases."""

import itertools
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Engine, delete, event, func, select, update
from sqlalchemy.orm import Session, sessionmaker

from app.accounts.caller import called_by
from app.catalog.models import Model
from app.errors import Conflict
from app.jobs import claims, endings, reconciler, service
from app.jobs.claims import Claim, ClaimStatus
from app.jobs.endings import MAX_ATTEMPTS, Product
from app.jobs.models import Artifact, Attempt, Job, JobEvent, Turn
from app.jobs.status import HELD, MOVES, TERMINAL, JobState
from app.jobs.submission import Submission
from app.jobs.work import QuantizeWork
from app.storage import Blob
from tests.effort import FUZZ_EFFORT, FUZZ_SEED
from tests.factories import MOST, add_job, member_of
from zeropoint.schema.job import Failure, Progress
from zeropoint.schema.recipe import Recipe

LEASE_SECONDS = 60
MOST_JOBS = 2
WORKERS = ("one", "two")
PRODUCTS = [Product("model.safetensors", "safetensors", Blob("c" * 64, 1))]
MOVED = {(source, move.target) for move in MOVES.values() for source in move.sources}


def failure(code: str) -> Failure:
    return Failure(code=code, title="It failed", detail="It did.", remedy="Try.")


class Jobs(RuleBasedStateMachine):
    """Two workers hold claims, true or stale, in `held`; `ends` counts what they were told was recorded."""

    def __init__(self, sessions: sessionmaker[Session]) -> None:
        super().__init__()
        self.sessions = sessions
        self.held: dict[str, list[Claim]] = {worker: [] for worker in WORKERS}
        self.jobs: list[str] = []
        self.ends: Counter[str] = Counter()
        with sessions() as session:
            for table in (Artifact, Attempt, JobEvent, Job, Turn, Model):
                session.execute(delete(table))
            session.commit()

    @initialize()
    def have_a_model(self) -> None:
        with self.sessions() as session:
            first = add_job(session)
            self.model, self.jobs = first.model_id, [first.id]

    @precondition(lambda self: len(self.jobs) < MOST_JOBS)
    @rule(project=st.sampled_from(["a", "b"]), priority=st.integers(0, 9))
    def submit(self, project: str, priority: int) -> None:
        wish = Submission(model=self.model, work=QuantizeWork(Recipe(activations=None)), priority=priority)
        with self.sessions() as session, called_by(member_of(project)):
            self.jobs.append(service.submit(session, wish, MOST).id)

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(self.jobs))
        with self.sessions() as session:
            before = session.get_one(Job, job_id).state
            try:
                state = service.request_cancel(session, job_id).state
            except Conflict:
                assert before in TERMINAL - {JobState.CANCELLED}
            else:
                assert before not in TERMINAL - {JobState.CANCELLED}
                self.ends[job_id] += before not in TERMINAL and state in TERMINAL

    @rule(worker=st.sampled_from(WORKERS))
    def claim(self, worker: str) -> None:
        with self.sessions() as session:
            claim = claims.claim(session, "cpu", worker, LEASE_SECONDS)
        if claim is not None:
            self.held[worker].append(claim)

    def holding(self) -> list[tuple[str, Claim]]:
        return [(worker, claim) for worker, claims_of in self.held.items() for claim in claims_of]

    def some_claim(self, data: st.DataObject, *, give_up: bool) -> Claim:
        worker, claim = data.draw(st.sampled_from(self.holding()))
        if give_up:
            self.held[worker].remove(claim)
        return claim

    @precondition(lambda self: self.holding())
    @rule(data=st.data())
    def beat(self, data: st.DataObject) -> None:
        claim = self.some_claim(data, give_up=False)
        with self.sessions() as session:
            said = claims.renew(session, claim, LEASE_SECONDS)
            told = claims.report_progress(session, claim, Progress(phase="saving"), None)
            job = session.get_one(Job, claim.job_id)
            valid = job.token == claim.token and job.state in HELD
        assert (said is not ClaimStatus.LOST) == (told is not ClaimStatus.LOST) == valid

    @precondition(lambda self: self.holding())
    @rule(
        data=st.data(),
        how=st.sampled_from(["succeed", "fail", "storage_full", "stop", "give_back"]),
        give_up=st.booleans(),
    )
    def end(self, data: st.DataObject, how: str, give_up: bool) -> None:
        """A worker that does not give up may say the same again, as one whose connection was cut in a commit does."""
        self.say(self.some_claim(data, give_up=give_up), how)

    def stale(self) -> list[Claim]:
        newest: dict[str, int] = {}
        for _, claim in self.holding():
            newest[claim.job_id] = max(claim.token, newest.get(claim.job_id, 0))
        return [claim for _, claim in self.holding() if claim.token < newest[claim.job_id]]

    @precondition(lambda self: self.stale())
    @rule(data=st.data(), how=st.sampled_from(["succeed", "fail"]))
    def wake_up(self, data: st.DataObject, how: str) -> None:
        """A worker that was presumed dead ends its job, which another one has."""
        self.say(data.draw(st.sampled_from(self.stale())), how)

    def say(self, claim: Claim, how: str) -> None:
        ways: dict[str, Callable[[Session], bool]] = {
            "succeed": lambda session: endings.succeed(session, claim, "passed", PRODUCTS),
            "fail": lambda session: endings.fail(session, claim, failure("crashed")),
            "storage_full": lambda session: endings.fail(session, claim, failure("storage_full")),
            "stop": lambda session: endings.stop(session, claim),
            "give_back": lambda session: endings.release(session, claim),
        }
        with self.sessions() as session:
            before = session.get_one(Job, claim.job_id)
            valid = before.token == claim.token and before.state in HELD
            recorded = ways[how](session)
            assert not recorded or valid
            self.ends[claim.job_id] += recorded and session.get_one(Job, claim.job_id).state in TERMINAL

    @precondition(lambda self: self.holding())
    @rule(data=st.data())
    def lapse(self, data: st.DataObject) -> None:
        """All leases run out. Whoever held one does not know."""
        self.let_time_pass(61)
        self.reconcile()
        self.claim(data.draw(st.sampled_from(WORKERS)))

    @rule(seconds=st.sampled_from([1, 30]))
    def let_time_pass(self, seconds: int) -> None:
        past = timedelta(seconds=seconds)
        with self.sessions() as session:
            for job in session.scalars(select(Job)):
                times: dict[str, Any] = {"lease_until": job.lease_until, "not_before": job.not_before}
                moved = {name: at and at - past for name, at in times.items()}
                session.execute(update(Job).where(Job.id == job.id).values(**moved))
            session.commit()

    @rule()
    def reconcile(self) -> None:
        with self.sessions() as session:
            before = {job.id: job.state for job in session.scalars(select(Job))}
            reconciler.recover(session)
            session.expire_all()
            for job in session.scalars(select(Job)):
                self.ends[job.id] += job.state in TERMINAL and before[job.id] not in TERMINAL

    @invariant()
    def every_job_is_there_and_ended_at_most_once(self) -> None:
        with self.sessions() as session:
            rows = {job.id: job for job in session.scalars(select(Job))}
            assert set(rows) == set(self.jobs)
            for job in rows.values():
                self.check(session, job)

    def check(self, session: Session, job: Job) -> None:
        events = session.scalars(select(JobEvent).where(JobEvent.job_id == job.id).order_by(JobEvent.seq)).all()
        states = [JobState(event.data["state"]) for event in events if event.kind == "state"]
        assert states[-1] == job.state
        assert all(pair in MOVED for pair in itertools.pairwise(states))
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        assert self.ends[job.id] == (job.state in TERMINAL) == sum(state in TERMINAL for state in states)
        open_attempts = [a for a in session.scalars(select(Attempt).where(Attempt.job_id == job.id)) if not a.outcome]
        assert [a.token for a in open_attempts] == ([job.token] if job.state in HELD else [])
        artifacts = session.scalar(select(func.count()).where(Artifact.job_id == job.id))
        assert artifacts == (1 if job.state == JobState.SUCCEEDED else 0)
        assert (job.lease_until is not None) == (job.state in HELD)
        assert job.attempts <= MAX_ATTEMPTS

    def teardown(self) -> None:
        """However a history ended: the reconciler and one sound worker bring every job to an end."""
        for _ in range(2 * len(self.jobs) + 2):
            self.let_time_pass(61)
            self.reconcile()
            with self.sessions() as session:
                claim = claims.claim(session, "cpu", "last", LEASE_SECONDS)
                if claim is not None and not endings.succeed(session, claim, "passed", PRODUCTS):
                    raise AssertionError("a claim that was just made is lost")
        with self.sessions() as session:
            assert set(session.scalars(select(Job.state))) <= TERMINAL


@pytest.mark.sampled(2)
def test_whatever_happens_every_job_ends_and_is_recorded_once(
    sessions: sessionmaker[Session], engine: Engine, database_url: str
) -> None:
    on_sqlite = database_url.startswith("sqlite")
    if on_sqlite:  # the disk's own pace is no matter here
        event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF"))

    @seed(FUZZ_SEED)
    class OnThisDatabase(Jobs):
        def __init__(self) -> None:
            super().__init__(sessions)

    effort = settings(
        max_examples=round((100 if on_sqlite else 25) * FUZZ_EFFORT),
        stateful_step_count=30,
        deadline=None,
        database=None,
        phases=[Phase.generate],  # a history that fails is short enough as it is
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(OnThisDatabase, settings=effort)
