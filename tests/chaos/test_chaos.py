"""An accepted job is never lost and is recorded exactly once: whatever is killed, whenever."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.chaos.counting import abandoned, unwritten
from tests.chaos.run import Outcome, Plan, run
from tests.effort import CHAOS_SECONDS, CHAOS_SEED
from tests.s3 import TestBucket

WHOLE = Plan("postgresql", CHAOS_SECONDS, CHAOS_SEED)
SMALL = {
    # One kind of part fewer can be killed: a file is no process.
    "sqlite": Plan("sqlite", CHAOS_SECONDS / 4, CHAOS_SEED, real_jobs=0),
    # The bucket fails in turn with the parts, and each artifact is there and right.
    "bucket": Plan("sqlite", CHAOS_SECONDS / 4, CHAOS_SEED, pause_seconds=(0.5, 2.0), real_jobs=0),
}
SHORT = Plan(
    "postgresql",
    seconds=8,
    seed=1,  # always: with it both workers soon die with all that they started
    lease_seconds=2,
    targets=("one", "two"),
    pause_seconds=(1, 2),
    idle_seconds=6,
    long_share=0.4,
    real_jobs=0,
)
MUTANTS = {
    "twice": replace(SHORT, mutant="unfenced", idle_seconds=30, calm_seconds=5, good_jobs=2),
    # No hint either, but at a start and after a submit.
    "stuck": replace(SHORT, mutant="unreconciled", reconcile_seconds=3600, harm=abandoned),
    "lost": replace(SHORT, mutant="hasty", targets=("postgresql", "api"), harm=unwritten),
}
"""What a run must show: which breakage, and what has to be killed for that."""

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.service,
    pytest.mark.slow,
    pytest.mark.timeout(3 * CHAOS_SECONDS + 720),
]


def test_no_accepted_job_is_lost_and_each_is_recorded_once(
    model: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    outcome = run(WHOLE, model, tmp_path)
    record_property("postgresql", str(outcome))
    require_sound(outcome)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("stored", SMALL)
def test_nor_on_sqlite_or_in_a_bucket(
    stored: str,
    model: Path,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
    request: pytest.FixtureRequest,
) -> None:
    bucket: TestBucket | None = request.getfixturevalue("bucket") if stored == "bucket" else None
    outcome = run(SMALL[stored], model, tmp_path, bucket)
    record_property(stored, str(outcome))
    require_sound(outcome)


def require_sound(outcome: Outcome) -> None:
    assert outcome.counts.sound, outcome.counts.which
    assert outcome.counts.accepted
    assert not outcome.answers.get(500)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("shows", MUTANTS)
def test_a_service_that_is_broken_does_not_pass(
    shows: str, model: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    outcome = run(MUTANTS[shows], model, tmp_path)
    record_property(MUTANTS[shows].mutant, str(outcome))
    assert getattr(outcome.counts, shows), outcome
