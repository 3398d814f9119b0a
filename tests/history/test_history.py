"""What callers see keeps every promise, whatever is killed, frozen, filled or cut meanwhile."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.effort import CHAOS_SECONDS, CHAOS_SEED
from tests.history.run import Plan, run

SECONDS = CHAOS_SECONDS / 2
MUTANT_SECONDS = 4.0
MUTANTS = {
    "forgetful": "key",
    "repainting": "artifact",
    "deaf": "cancel",
    "heedless": "cancel",
    "backward": "state",
    "blind": "list",
}
"""How the service is broken, and the rule that its history breaks."""
SETTLE_SECONDS = dict.fromkeys(MUTANTS, 5.0) | {"heedless": 60.0}
"""What is heedless shows when long work has ended; others may never settle."""

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.service,
    pytest.mark.slow,
    pytest.mark.timeout(3 * CHAOS_SECONDS + 420),
]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("database", ["postgresql", "sqlite"])
def test_a_history_under_faults_keeps_every_promise(
    database: str, model: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    outcome = run(Plan(database, SECONDS, CHAOS_SEED), model, tmp_path)
    record_property(f"history on {database}", str(outcome))
    assert not outcome.violations
    assert outcome.faults


@pytest.mark.sampled(6)
@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_service_that_breaks_a_promise_is_found_out(
    mutant: str, model: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    plan = Plan("sqlite", MUTANT_SECONDS, 1, settle_seconds=SETTLE_SECONDS[mutant], mutant=mutant, breaks=False)
    outcome = run(plan, model, tmp_path)
    record_property(f"history of a {mutant} service", str(outcome))
    assert MUTANTS[mutant] in {violation.rule for violation in outcome.violations}
