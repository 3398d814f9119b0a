"""The trace of a job: from the request that submitted it through its wait to each phase of its program."""

from itertools import pairwise
from pathlib import Path

import pytest

from tests.otlp import Received, Receiver
from tests.service.processes import eventually
from tests.service.running import Running

pytestmark = pytest.mark.service

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = f"00-{TRACE}-00f067aa0ba902b7-01"
PHASES = ["loading", "calibrating", "quantizing", "saving", "validating"]


@pytest.fixture(scope="module")
def trace(running: Running, traced: Receiver, program: Path, few_samples: Path) -> list[Received]:
    """The spans of one job, by when they began."""
    model, dataset = running.upload("models", program), running.upload("datasets", few_samples)
    answer = running.client.post(
        "/v1/jobs", json={"model": model, "dataset": dataset, "recipe": {}}, headers={"traceparent": CALLER}
    )
    job_id = answer.json()["id"]
    assert running.ended(job_id)["state"] == "succeeded"
    eventually(lambda: {"POST /v1/jobs", "attempt"} <= {span.name for span in traced.of(TRACE)})
    return traced.of(TRACE)


def one(trace: list[Received], name: str) -> Received:
    (span,) = [span for span in trace if span.name == name]
    return span


def test_a_trace_leads_from_the_caller_to_each_phase(trace: list[Received]) -> None:
    request, attempt = one(trace, "POST /v1/jobs"), one(trace, "attempt")
    assert request.parent == "00f067aa0ba902b7"
    assert (request.service, attempt.service) == ("zeropoint-api", "zeropoint-worker")
    assert one(trace, "queued").parent == attempt.parent == request.span
    inside = [span.name for span in trace if span.parent == attempt.span]
    assert inside == ["fetching", *PHASES, "publishing"]


def test_the_pieces_follow_each_other_and_lie_inside_of_the_attempt(trace: list[Received]) -> None:
    attempt, queued = one(trace, "attempt"), one(trace, "queued")
    pieces = [one(trace, name) for name in ("fetching", *PHASES, "publishing")]
    assert attempt.began - 0.1 <= pieces[0].began
    assert pieces[-1].ended <= attempt.ended + 0.1
    assert all(earlier.ended <= later.began + 0.1 for earlier, later in pairwise(pieces))
    assert queued.ended == pytest.approx(attempt.began, abs=5)


def test_an_attempt_says_which_job_it_was_and_how_it_ended(trace: list[Received]) -> None:
    attributes = one(trace, "attempt").attributes
    assert str(attributes["zeropoint.job_id"]).startswith("job_")
    assert (attributes["zeropoint.state"], attributes["zeropoint.device"]) == ("succeeded", "cpu")
    assert attributes["zeropoint.request_id"] == one(trace, "POST /v1/jobs").attributes["zeropoint.request_id"]
    assert not any(span.failed for span in trace)


def test_names_and_contents_of_uploads_are_not_sent(traced: Receiver, trace: list[Received], program: Path) -> None:
    assert trace
    assert program.stem not in repr([span.attributes for span in traced.spans])


def test_a_job_that_fails_by_a_users_mistake_is_no_failure_of_its_trace(
    running: Running, traced: Receiver, program: Path, few_samples: Path
) -> None:
    job_id = running.submit(program, few_samples, {"validation": {"min_sqnr_db": 300}})
    assert running.ended(job_id)["state"] == "failed"
    (attempt,) = eventually(lambda: [span for span in traced.where(job_id=job_id) if span.name == "attempt"])
    assert (attempt.attributes["zeropoint.code"], attempt.failed) == ("validation_failed", False)
