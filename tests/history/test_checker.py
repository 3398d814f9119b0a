"""The checker passes every history of a sound service, and finds what each kind of broken one does."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import inf
from random import Random

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from app.jobs.status import TERMINAL
from tests.history.checker import check
from tests.history.records import Event, File, Kind, Listed, Operation, Outcome
from tests.history.reference import Reference

TICKS = 150
EXAMPLES = 20
AFTER = 10_000.0
"""When whatever is added was asked: all else was answered by then."""

RANDOMS = st.integers(0, 2**32).map(Random)
"""Seeds: a random generator that hypothesis plays with makes short and dull histories."""
History = list[Operation]
Corruption = Callable[[History, Random], History]


def history_of(random: Random) -> History:
    reference = Reference(random)
    reference.run(TICKS)
    return reference.history


@given(RANDOMS)
def test_a_sound_history_passes(random: Random) -> None:
    assert not check(history_of(random))


def later(kind: Kind, target: str, **changes: object) -> Operation:
    return replace(Operation(kind, target, AFTER, AFTER + 1), **changes)  # type: ignore[arg-type]


def chosen(history: History, random: Random, kind: Kind, wanted: Callable[[Operation], object]) -> Operation:
    """An operation that a corruption needs; histories without one are left out."""
    fitting = [one for one in history if one.kind is kind and one.ok and wanted(one)]
    assume(fitting)
    return random.choice(fitting)


def anything(_: Operation) -> bool:
    return True


def swapped(history: History, old: Operation, **changes: object) -> History:
    return [replace(one, **changes) if one is old else one for one in history]  # type: ignore[arg-type]


def ended_job(history: History, random: Random, state: str) -> str:
    """The id of a job that ended so."""
    final = [job.id for one in history if one.kind is Kind.JOBS and one.ok for job in one.jobs if job.state == state]
    assume(final)
    return random.choice(sorted(set(final)))


def last(history: History, kind: Kind) -> Operation:
    return [one for one in history if one.kind is kind and one.ok][-1]


def forgotten_key(history: History, random: Random) -> History:
    submit = chosen(history, random, Kind.SUBMIT, lambda one: one.id)
    return [*history, later(Kind.SUBMIT, submit.target, id="job_999999", state="cancelled")]


def second_job_in_a_list(history: History, random: Random) -> History:
    jobs = last(history, Kind.JOBS)
    assume(jobs.jobs)
    double = Listed("job_999999", "succeeded", random.choice(jobs.jobs).key)
    return swapped(history, jobs, jobs=(double, *jobs.jobs))


def shared_job(history: History, random: Random) -> History:
    submit = chosen(history, random, Kind.SUBMIT, lambda one: one.id)
    return [*history, replace(submit, target="another key", invoked=submit.ended, ended=submit.ended + 1)]


def going_back(history: History, random: Random) -> History:
    job = ended_job(history, random, random.choice(sorted(TERMINAL)))
    return [*history, later(Kind.READ, job, id=job, state=random.choice(["queued", "running"]))]


def another_end(history: History, random: Random) -> History:
    job = ended_job(history, random, "succeeded")
    return [*history, later(Kind.READ, job, id=job, state="failed")]


def skipped_state(history: History, random: Random) -> History:
    events = chosen(history, random, Kind.EVENTS, lambda one: one.events[-1:] and one.events[-1].state == "running")
    return swapped(history, events, events=(*events.events, Event(99, "cancelled", 99)))


def rewritten_events(history: History, random: Random) -> History:
    read = chosen(history, random, Kind.EVENTS, lambda one: len(one.events) > 1)
    return [*history, later(Kind.EVENTS, read.target, events=read.events[1:])]


def forgotten_attempt(history: History, random: Random) -> History:
    read = chosen(history, random, Kind.ATTEMPTS, lambda one: one.tokens)
    return [*history, later(Kind.ATTEMPTS, read.target, tokens=(*read.tokens[:-1], 77))]


def other_digest(history: History, random: Random) -> History:
    listed = chosen(history, random, Kind.ARTIFACTS, lambda one: one.files)
    files = (File(listed.files[0].name, "other", "other"), *listed.files[1:])
    return [*history, later(Kind.ARTIFACTS, listed.target, files=files)]


def another_file(history: History, random: Random) -> History:
    listed = chosen(history, random, Kind.ARTIFACTS, lambda one: one.files)
    return [*history, later(Kind.ARTIFACTS, listed.target, files=(*listed.files, File("more", "1", "1")))]


def other_bytes(history: History, random: Random) -> History:
    listed = chosen(history, random, Kind.ARTIFACTS, lambda one: one.files)
    file = random.choice(listed.files)
    return [*history, later(Kind.DOWNLOAD, listed.target, files=(file._replace(sha256="other"),))]


def other_tag(history: History, random: Random) -> History:
    listed = chosen(history, random, Kind.ARTIFACTS, lambda one: one.files)
    file = random.choice(listed.files)
    return [*history, later(Kind.DOWNLOAD, listed.target, files=(file._replace(tag="other"),))]


def lost_file(history: History, random: Random) -> History:
    job = ended_job(history, random, "succeeded")
    return [*history, later(Kind.DOWNLOAD, job, outcome=Outcome.FAIL, status=404)]


def cancel_without_effect(history: History, random: Random) -> History:
    cancel = chosen(history, random, Kind.CANCEL, lambda one: one.state == "cancelling")
    return swapped(history, cancel, state="running")


def forgotten_cancel(history: History, random: Random) -> History:
    cancel = chosen(history, random, Kind.CANCEL, anything)
    return [*history, later(Kind.READ, cancel.target, id=cancel.target, state="running")]


def unheeded_cancel(history: History, random: Random) -> History:
    events = (Event(1, "queued", 0), Event(2, "running", 1), Event(3, "cancelling", 2), Event(4, "succeeded", 60))
    return [*history, later(Kind.EVENTS, "job_999999", events=events)]


def refused_cancel(history: History, random: Random) -> History:
    read = chosen(history, random, Kind.READ, lambda one: one.state not in TERMINAL)
    refused = replace(read, kind=Kind.CANCEL, outcome=Outcome.FAIL, status=409, state="", invoked=-2, ended=-1)
    assume(read.invoked > refused.ended)
    return [*history, refused]


def unlisted_job(history: History, random: Random) -> History:
    jobs = last(history, Kind.JOBS)
    assume([one for one in history if one.kind is Kind.SUBMIT and one.ok])
    submit = chosen(history, random, Kind.SUBMIT, lambda one: one.ended < jobs.invoked)
    return swapped(history, jobs, jobs=tuple(job for job in jobs.jobs if job.id != submit.id))


def doubled_job(history: History, random: Random) -> History:
    jobs = last(history, Kind.JOBS)
    assume(jobs.jobs)
    return swapped(history, jobs, jobs=(*jobs.jobs, random.choice(jobs.jobs)))


def lost_job(history: History, random: Random) -> History:
    submit = chosen(history, random, Kind.SUBMIT, anything)
    kind = random.choice([Kind.READ, Kind.CANCEL, Kind.EVENTS, Kind.ATTEMPTS, Kind.ARTIFACTS])
    return [*history, later(kind, submit.id, outcome=Outcome.FAIL, status=404)]


def kept_upload(history: History, random: Random) -> str:
    uploads = last(history, Kind.UPLOADS).uploads
    tried = {one.target for one in history if one.kind is Kind.DELETE}
    kept = [one.id for one in history if one.kind is Kind.UPLOAD and one.id in set(uploads) - tried]
    assume(kept)
    return random.choice(kept)


def unlisted_upload(history: History, random: Random) -> History:
    upload, uploads = kept_upload(history, random), last(history, Kind.UPLOADS)
    return [*history, later(Kind.UPLOADS, "", uploads=tuple(one for one in uploads.uploads if one != upload))]


def lost_upload(history: History, random: Random) -> History:
    upload = kept_upload(history, random)
    kind = random.choice([Kind.READ_UPLOAD, Kind.DELETE])
    return [*history, later(kind, upload, outcome=Outcome.FAIL, status=404)]


def listed_after_deletion(history: History, random: Random) -> History:
    delete = chosen(history, random, Kind.DELETE, anything)
    uploads = {*last(history, Kind.UPLOADS).uploads, delete.target}
    return [*history, later(Kind.UPLOADS, "", uploads=tuple(sorted(uploads, reverse=True)))]


def found_after_deletion(history: History, random: Random) -> History:
    delete = chosen(history, random, Kind.DELETE, anything)
    return [*history, later(random.choice([Kind.READ_UPLOAD, Kind.DELETE]), delete.target)]


def never_ended(history: History, random: Random) -> History:
    return [*history, later(Kind.SUBMIT, "a new key", id="job_999999", state="queued")]


def fault(history: History, random: Random) -> History:
    lost = later(random.choice(list(Kind)), "", outcome=Outcome.UNKNOWN, status=500, ended=inf)
    return [*history, lost]


CORRUPTIONS: Mapping[str, Sequence[Corruption]] = {
    "key": (forgotten_key, second_job_in_a_list, shared_job),
    "state": (going_back, another_end, skipped_state, rewritten_events, forgotten_attempt),
    "artifact": (other_digest, another_file, other_bytes, other_tag, lost_file),
    "cancel": (cancel_without_effect, forgotten_cancel, unheeded_cancel, refused_cancel),
    "list": (
        *(unlisted_job, doubled_job, lost_job, unlisted_upload, lost_upload),
        *(listed_after_deletion, found_after_deletion),
    ),
    "end": (never_ended,),
    "answer": (fault,),
}


@pytest.mark.parametrize(
    ("rule", "corrupt"),
    [(rule, corrupt) for rule, ways in CORRUPTIONS.items() for corrupt in ways],
    ids=lambda one: getattr(one, "__name__", one),
)
@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.filter_too_much])
@given(RANDOMS)
def test_a_history_that_is_broken_in_one_way_is_found(rule: str, corrupt: Corruption, random: Random) -> None:
    broken = corrupt(history_of(random), random)
    assert rule in {violation.rule for violation in check(broken)}
