"""Whether a history keeps what the service promises. It knows no more than what callers saw.

A request took effect somewhere between its two times, so one thing is known to be before another only where the first
ended before the second began. What follows from that must hold; whatever else happened is allowed.

| rule | what must hold |
|---|---|
| key | one key has one job, in every answer and in every list |
| state | states move as `app.jobs.status` says, and a final one stays; a job's events and attempts only grow |
| artifact | a job's files, once it succeeded, are the same for ever, and bytes have the digest that is listed |
| cancel | a job whose cancel was accepted ends cancelled, or as its work had ended by then |
| list | what was made is found, and in each list once, until it is deleted; from then on it is not |
| end | every accepted job ends |
| answer | no answer is a fault of the service |
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from math import inf
from typing import NamedTuple

from app.jobs.status import MOVES, TERMINAL, JobState
from tests.history.records import OF_JOBS, SHED, File, Kind, Operation

STEPS = {(str(source), str(move.target)) for move in MOVES.values() for source in move.sources}
FINAL = {str(state) for state in TERMINAL}
CALLED_OFF = FINAL | {JobState.CANCELLING}
HEED_SECONDS = 10.0
"""From a cancel to the record of an end that was reached before the worker saw it: longer than a lease and an outage
of the database."""


class Violation(NamedTuple):
    """What a service must not do, by which rule."""

    rule: str
    detail: str


class Seen(NamedTuple):
    """A state that a job had at some time between the two of an operation."""

    state: str
    by: Operation


def check(history: Sequence[Operation], heed_seconds: float = HEED_SECONDS) -> list[Violation]:
    """Return every violation of a history, which is to end with looks at every job after all has settled."""
    rules: Mapping[str, Callable[[], Iterator[str]]] = {
        "key": lambda: _keys(history),
        "state": lambda: _states(history),
        "artifact": lambda: _artifacts(history),
        "cancel": lambda: _cancels(history, heed_seconds),
        "list": lambda: _lists(history),
        "end": lambda: _ends(history),
        "answer": lambda: (str(one) for one in history if one.status >= 500 and one.status not in SHED),
    }
    return [Violation(name, detail) for name, rule in rules.items() for detail in rule()]


def _keys(history: Sequence[Operation]) -> Iterator[str]:
    pairs = {(one.target, one.id) for one in history if one.ok and one.kind is Kind.SUBMIT}
    pairs |= {(job.key, job.id) for one in history for job in one.jobs}
    joined = defaultdict[str, set[str]](set)
    for key, job in pairs:
        joined[f"the key {key}"].add(job)
        joined[f"the job {job}"].add(key)
    yield from (f"{one} has {sorted(others)}" for one, others in joined.items() if len(others) > 1)


def _states(history: Sequence[Operation]) -> Iterator[str]:
    for job, sightings in _sightings(history).items():
        for earlier, later in _in_order(sightings):
            if later.state not in LATER[earlier.state]:
                yield f"{job} was {earlier.state} and then {later.state}: {earlier.by}; {later.by}"
    for one in history:
        steps = pairwise(event.state for event in one.events)
        yield from (f"{one.target} went from {step}" for step in steps if step not in STEPS)
    logs = defaultdict[tuple[Kind, str], list[Seen]](list)
    for one in history:
        if one.ok and one.kind in (Kind.EVENTS, Kind.ATTEMPTS):
            logs[one.kind, one.target].append(Seen("", one))
    for reads in logs.values():
        for before, after in _in_order(reads):
            if after.by.log[: len(before.by.log)] != before.by.log:
                yield f"it did not only grow: {before.by.log}, then {after.by.log}: {after.by}"


def _artifacts(history: Sequence[Operation]) -> Iterator[str]:
    lists, digests = defaultdict[str, set[tuple[File, ...]]](set), defaultdict[tuple[str, str], set[str]](set)
    for one in history:
        if one.kind is Kind.ARTIFACTS and one.files:
            lists[one.target].add(one.files)
        for file in one.files:
            digests[one.target, file.name] |= {file.sha256, file.tag}
    yield from (f"{job} had {sorted(several)}" for job, several in lists.items() if len(several) > 1)
    yield from (f"{file} had {sorted(several)}" for file, several in digests.items() if len(several) > 1)
    done = {job: _since(seen, {JobState.SUCCEEDED}) for job, seen in _sightings(history).items()}
    for one in history:
        answered = one.kind in (Kind.ARTIFACTS, Kind.DOWNLOAD) and (one.ok or one.status == 404)
        if answered and not one.files and done.get(one.target, inf) < one.invoked:
            yield f"a job that succeeded has no file: {one}"


def _cancels(history: Sequence[Operation], heed_seconds: float) -> Iterator[str]:
    sightings = _sightings(history)
    for one in history:
        if one.kind is Kind.CANCEL and (one.ok or one.status == 409):
            allowed = CALLED_OFF if one.ok else FINAL
            seen = [other for other in sightings[one.target] if other.by is one or one.ended < other.by.invoked]
            yield from (f"{state} after {one}" for state, _ in seen if state not in allowed)
        asked = [event.at for event in one.events if event.state == JobState.CANCELLING]
        ended = [event.at for event in one.events if event.state in FINAL - {JobState.CANCELLED}]
        if asked and ended and ended[0] - asked[0] > heed_seconds:
            yield f"{one.events[-1].state} {ended[0] - asked[0]:.1f} s after the cancel: {one}"


def _lists(history: Sequence[Operation]) -> Iterator[str]:
    there, may_be_gone, gone = dict[str, float](), dict[str, float](), dict[str, float]()
    for one in history:
        for thing in one.found:
            there[thing] = min(there.get(thing, inf), one.ended)
        if one.kind is Kind.DELETE and (one.ok or one.unknown):
            may_be_gone[one.target] = min(may_be_gone.get(one.target, inf), one.invoked)
            gone[one.target] = min(gone.get(one.target, inf), one.ended)
    kinds = {thing: one.kind in OF_JOBS for one in history for thing in one.found}
    for one in history:
        if list(one.listed) != sorted(set(one.listed), reverse=True):
            yield f"its items are not each there once, newest first: {one} {one.listed}"
        everything = {thing for thing, of_jobs in kinds.items() if of_jobs == (one.kind in OF_JOBS)}
        single = {one.target} if one.status == 404 and one.kind is not Kind.DOWNLOAD else set()
        sought = everything if one.ok and one.is_list else single
        for thing in sought - one.found:
            if there.get(thing, inf) < one.invoked and one.ended < may_be_gone.get(thing, inf):
                yield f"{thing} is not found: {one}"
        yield from (f"{thing} is found: {one}" for thing in one.found if gone.get(thing, inf) < one.invoked)


def _ends(history: Sequence[Operation]) -> Iterator[str]:
    accepted = {one.id for one in history if one.ok and one.kind is Kind.SUBMIT}
    for job, seen in _sightings(history).items():
        if job in accepted and _since(seen, FINAL) == inf:
            yield f"{job} has not ended: {seen[-1].by}"


def _sightings(history: Sequence[Operation]) -> Mapping[str, list[Seen]]:
    """Every state of each job that somebody saw."""
    seen = defaultdict[str, list[Seen]](list)
    for one in history:
        for job in one.jobs:
            seen[job.id].append(Seen(job.state, one))
        if one.state:
            seen[one.id].append(Seen(one.state, one))
        if one.events:
            seen[one.target].append(Seen(one.events[-1].state, one))
    return seen


def _in_order(seen: Sequence[Seen]) -> Iterator[tuple[Seen, Seen]]:
    """Pairs of which the first was surely before the second."""
    for later in seen:
        yield from ((earlier, later) for earlier in seen if earlier.by.ended < later.by.invoked)


def _since(seen: Sequence[Seen], states: set[str]) -> float:
    """From when on a job was surely in one of these states, which it doesn't leave."""
    return min((one.by.ended for one in seen if one.state in states), default=inf)


def _reachable(state: str) -> set[str]:
    found = [state]
    for one in found:  # grows while it is walked
        found += {target for source, target in STEPS if source == one} - set(found)
    return set(found)


LATER: Mapping[str, set[str]] = {str(state): _reachable(str(state)) for state in JobState}
"""State -> those that a job may have from then on."""
