"""Callers of a service that is broken under their hands: each asks one thing after another and remembers all of it."""

import hashlib
import random
import threading
import time
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from math import inf
from typing import Any

import httpx

from app.jobs.status import TERMINAL, JobState
from tests.chaos.program import Kind as Work
from tests.history.records import Event, File, Kind, Listed, Operation, Outcome

ANSWER_SECONDS = 5.0
PAUSE_SECONDS = 0.1
MOST_LIVE = 8
"""Beyond, no caller submits: jobs that wait see nothing of the faults."""
PAGE = 7
"""Few, so that a list has several pages."""
LONG_MILLISECONDS = 20_000
"""Work that is cancelled in the middle, always: no sound service has it end by itself."""
LOOK_SECONDS = 0.2
SHORT_MILLISECONDS = (100, 1000)
LONG_SHARE = 0.1

Answer = Callable[[httpx.Response], Mapping[str, Any]]
"""What an operation remembers of a success."""


@dataclass
class World:
    """What callers share: any of them may look at what another made."""

    model: str
    dataset: bytes
    history: list[Operation] = field(default_factory=list)
    orders: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Key -> the body that is always sent under it."""
    states: dict[str, str] = field(default_factory=dict)
    """Job -> how it was when it was last seen."""
    to_cancel: list[str] = field(default_factory=list)
    """Jobs whose cancel nobody has confirmed."""
    uploads: list[str] = field(default_factory=list)
    files: dict[str, tuple[File, ...]] = field(default_factory=dict)

    def live(self) -> int:
        return sum(state not in TERMINAL for state in list(self.states.values()))


class Caller:
    """One connection, and what it asks; `number` is another for each."""

    def __init__(self, address: str, world: World, seed: int, number: int) -> None:
        self._client = httpx.Client(base_url=address, timeout=ANSWER_SECONDS, trust_env=False)
        self._world = world
        self._random = random.Random(f"caller {number} {seed}")
        self._number = number
        self._made = 0

    def close(self) -> None:
        self._client.close()

    def ask_until(self, over: threading.Event) -> None:
        while not over.wait(self._random.uniform(0, 2 * PAUSE_SECONDS)):
            (do,) = self._random.choices(list(REQUESTS), list(REQUESTS.values()))
            do(self)

    # Jobs

    def submit(self) -> None:
        if self._world.live() >= MOST_LIVE:
            return self.repeat()
        self._made += 1
        key, long = f"{self._number}-{self._made}", self._random.random() < LONG_SHARE
        milliseconds = LONG_MILLISECONDS if long else self._random.randint(*SHORT_MILLISECONDS)
        seed = 10 * (1000 * self._number + self._made) + Work.GOOD
        recipe: dict[str, Any] = {"activations": None, "formats": ["safetensors"], "seed": seed}
        recipe |= {"calibration": {"samples": milliseconds}}
        self._world.orders[key] = {"model": self._world.model, "recipe": recipe, "tags": [key]}
        self.send(key)
        return None

    def repeat(self) -> None:
        """Send an order again, as callers do who got no answer, and some who did."""
        if self._world.orders:
            self.send(self._random.choice(list(self._world.orders)))

    def send(self, key: str) -> Operation:
        order = self._world.orders[key]
        headers = {"Idempotency-Key": key}
        sent = self._ask(Kind.SUBMIT, key, "POST", "/v1/jobs", _job, json=order, headers=headers)
        if sent.id and order["recipe"]["calibration"]["samples"] == LONG_MILLISECONDS:
            self._world.to_cancel.append(sent.id)
        return sent

    def read(self) -> None:
        if job := self._some_job():
            self._ask(Kind.READ, job, "GET", f"/v1/jobs/{job}", _job)

    def cancel(self) -> None:
        if job := self._some_job():
            self.cancel_job(job)

    def cancel_long_work(self) -> None:
        """Insist: what is not answered is asked again."""
        with suppress(IndexError):  # another caller may be quicker
            job = self._world.to_cancel.pop()
            if self.cancel_job(job).unknown:
                self._world.to_cancel.append(job)

    def cancel_job(self, job: str) -> Operation:
        return self._ask(Kind.CANCEL, job, "POST", f"/v1/jobs/{job}/cancel", _job)

    def list_jobs(self) -> None:
        self._ask_pages(Kind.JOBS, "/v1/jobs", "jobs", lambda row: Listed(row["id"], row["state"], *row["tags"]))

    def events(self) -> None:
        if job := self._some_job():
            self.read_events(job)

    def read_events(self, job: str) -> None:
        self._ask(Kind.EVENTS, job, "GET", f"/v1/jobs/{job}/events", _events)

    def attempts(self) -> None:
        if job := self._some_job():
            self.read_attempts(job)

    def read_attempts(self, job: str) -> None:
        self._ask(Kind.ATTEMPTS, job, "GET", f"/v1/jobs/{job}/attempts", _attempts)

    def artifacts(self) -> None:
        if job := self._some_job():
            self.list_artifacts(job)

    def list_artifacts(self, job: str) -> None:
        listed = self._ask(Kind.ARTIFACTS, job, "GET", f"/v1/jobs/{job}/artifacts", _artifacts)
        if listed.files:
            self._world.files[job] = listed.files

    def download(self) -> None:
        if self._world.files:
            job = self._random.choice(list(self._world.files))
            self.download_file(job, self._random.choice(self._world.files[job]).name)

    def download_file(self, job: str, name: str) -> None:
        def came(answer: httpx.Response) -> Mapping[str, Any]:
            said = b64decode(answer.headers["Repr-Digest"].split(":")[1]).hex()
            tag = answer.headers["ETag"].strip('"')
            bytes_are = hashlib.sha256(answer.content).hexdigest()
            return {"files": (File(name, bytes_are, tag), File(name, bytes_are, said))}

        self._ask(Kind.DOWNLOAD, job, "GET", f"/v1/jobs/{job}/artifacts/{name}", came)

    # Uploads

    def upload(self) -> None:
        made = self._ask(Kind.UPLOAD, "", "POST", "/v1/datasets", _upload, content=self._world.dataset)
        if made.id:
            self._world.uploads.append(made.id)

    def read_upload(self) -> None:
        if self._world.uploads:
            upload = self._random.choice(self._world.uploads)
            self._ask(Kind.READ_UPLOAD, upload, "GET", f"/v1/datasets/{upload}", _upload)

    def delete(self) -> None:
        if self._world.uploads:
            upload = self._random.choice(self._world.uploads)
            self._ask(Kind.DELETE, upload, "DELETE", f"/v1/datasets/{upload}", _nothing)

    def list_uploads(self) -> None:
        self._ask_pages(Kind.UPLOADS, "/v1/datasets", "uploads", lambda row: row["id"])

    def _some_job(self) -> str | None:
        return self._random.choice(list(self._world.states)) if self._world.states else None

    def _ask(self, kind: Kind, target: str, method: str, path: str, read: Answer, **content: Any) -> Operation:
        """Ask once, remember what came, and return it."""
        asked = Operation(kind, target, time.monotonic(), inf, Outcome.UNKNOWN, status=0)
        try:
            answer = self._client.request(method, path, **content)
            asked = heard(asked, answer, read(answer) if answer.is_success else {})
        except httpx.TransportError:
            pass
        self._remember(asked)
        return asked

    def _ask_pages(self, kind: Kind, path: str, name: str, item: Callable[[Any], Any]) -> None:
        """Read a list to its end; it is an operation when all of its pages came."""
        asked = Operation(kind, "", time.monotonic(), inf, Outcome.UNKNOWN, status=0)
        rows, query = list[Any](), {"limit": str(PAGE)}
        try:
            while answer := self._client.get(path, params=query):
                rows += answer.json()["items"] if answer.is_success else []
                if not answer.is_success or not (cursor := answer.json()["next_cursor"]):
                    asked = heard(asked, answer, {name: tuple(map(item, rows))} if answer.is_success else {})
                    break
                query["cursor"] = cursor
        except httpx.TransportError:
            pass
        self._remember(asked)

    def _remember(self, operation: Operation) -> None:
        self._world.history.append(operation)
        seen = {job.id: job.state for job in operation.jobs} | (
            {operation.id: operation.state} if operation.state else {}
        )
        for job, state in seen.items():
            if self._world.states.get(job) not in TERMINAL:
                self._world.states[job] = state


def heard(asked: Operation, answer: httpx.Response, said: Mapping[str, Any]) -> Operation:
    """What a request came to; a refusal for lack of something may have taken effect all the same."""
    outcome = Outcome.OK if answer.is_success else Outcome.FAIL if answer.status_code < 500 else Outcome.UNKNOWN
    ended = inf if outcome is Outcome.UNKNOWN else time.monotonic()
    return replace(asked, ended=ended, outcome=outcome, status=answer.status_code, **said)


@contextmanager
def asking(callers: Sequence[Caller]) -> Iterator[None]:
    """Have all of them ask while this is entered."""
    over = threading.Event()
    threads = [threading.Thread(target=caller.ask_until, args=(over,)) for caller in callers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def settle(caller: Caller, world: World, seconds: float) -> None:
    """Have every order answered, and wait until every job has ended, or for so long."""
    until, orders = time.monotonic() + seconds, list(world.orders)
    while time.monotonic() < until and (orders or world.to_cancel or world.live()):
        if orders and caller.send(orders[-1]).ok:
            orders.pop()
            continue
        caller.cancel_long_work()
        caller.list_jobs()
        time.sleep(LOOK_SECONDS)


def look_at_all(caller: Caller, world: World) -> None:
    """Ask for everything once more."""
    caller.list_jobs()
    caller.list_uploads()
    for job, state in list(world.states.items()):
        caller.read_events(job)
        caller.read_attempts(job)
        caller.list_artifacts(job)
        for file in world.files.get(job, ()) if state == JobState.SUCCEEDED else ():
            caller.download_file(job, file.name)


def _job(answer: httpx.Response) -> Mapping[str, Any]:
    return {"id": answer.json()["id"], "state": answer.json()["state"]}


def _upload(answer: httpx.Response) -> Mapping[str, Any]:
    return {"id": answer.json()["id"]}


def _nothing(_: httpx.Response) -> Mapping[str, Any]:
    return {}


def _events(answer: httpx.Response) -> Mapping[str, Any]:
    rows = [row for row in answer.json()["items"] if row["kind"] == "state"]
    events = (Event(row["seq"], row["data"]["state"], _seconds(row["at"])) for row in rows)
    return {"events": tuple(events)}


def _attempts(answer: httpx.Response) -> Mapping[str, Any]:
    return {"tokens": tuple(row["token"] for row in answer.json()["items"])}


def _artifacts(answer: httpx.Response) -> Mapping[str, Any]:
    return {"files": tuple(File(row["name"], row["sha256"], row["sha256"]) for row in answer.json())}


def _seconds(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()


REQUESTS: Mapping[Callable[[Caller], None], int] = {
    Caller.submit: 16,
    Caller.repeat: 8,
    Caller.read: 16,
    Caller.cancel: 3,
    Caller.cancel_long_work: 10,
    Caller.list_jobs: 6,
    Caller.events: 8,
    Caller.attempts: 4,
    Caller.artifacts: 10,
    Caller.download: 10,
    Caller.upload: 5,
    Caller.read_upload: 4,
    Caller.delete: 3,
    Caller.list_uploads: 4,
}
"""What callers do, by how often."""
