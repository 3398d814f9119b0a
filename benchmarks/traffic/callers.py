"""Callers who upload, submit, poll, wait, list and download: each is one connection with one job at a time.

In a closed loop a caller asks again as soon as it has an answer, so a slow service is asked less. In an open loop
requests come at times that were drawn before (a Poisson process); one that waits for a free caller has begun to wait
at its planned time, so what a slow service delays is counted.
"""

import asyncio
import hashlib
import random
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx

from benchmarks.traffic.answers import NO_ANSWER, WRONG, Answers, Refusal
from tests.service.running import TERMINAL

ANSWER_SECONDS = 30.0
LONGEST_PAUSE_SECONDS = 5.0
"""Whatever Retry-After asks for: the load stays."""
KEPT_SECONDS = 3.0
"""For an idle connection: less than the server, which would else close it just as a request is sent."""
WAIT_SECONDS = 1
RANGE_BYTES = 1024
KEPT = 100


@dataclass(frozen=True)
class File:
    """An artifact of a job that has ended."""

    job_id: str
    name: str
    bytes: int
    sha256: str


@dataclass
class World:
    """What callers share: the bytes that they send, and what was made so far."""

    model: bytes
    dataset: bytes
    models: deque[str] = field(default_factory=lambda: deque(maxlen=KEPT))
    datasets: deque[str] = field(default_factory=lambda: deque(maxlen=KEPT))
    files: deque[File] = field(default_factory=lambda: deque(maxlen=KEPT))
    ended: int = 0


class Caller:
    """One connection. `planned`: when the next request was to begin, on the clock of `time.perf_counter`."""

    def __init__(self, address: str, world: World, answers: Answers, seed: str) -> None:
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=KEPT_SECONDS)
        self.client = httpx.AsyncClient(base_url=address, timeout=ANSWER_SECONDS, limits=limits, trust_env=False)
        self.random = random.Random(seed)
        self.planned: float | None = None
        self.pause = 0.0
        self._world = world
        self._answers = answers
        self._order: dict[str, Any] = {}
        self._job: str | None = None

    async def close(self) -> None:
        """Leave no job behind; that is no part of the load."""
        if self._job:
            with suppress(httpx.TransportError):
                await self.client.post(f"/v1/jobs/{self._job}/cancel")
        await self.client.aclose()

    async def step(self) -> None:
        """Do one thing of those that a user does, chosen by its weight."""
        (do,) = self.random.choices(list(STEPS), list(STEPS.values()))
        self.pause = 0.0
        await do(self)

    async def upload_model(self) -> None:
        if body := await self._ask("POST", "/v1/models", content=self._world.model):
            self._world.models.append(body.json()["id"])

    async def upload_dataset(self) -> None:
        if body := await self._ask("POST", "/v1/datasets", content=self._world.dataset):
            self._world.datasets.append(body.json()["id"])

    async def submit(self) -> None:
        """Submit a job, or look at the one that has not ended."""
        if self._job:
            return await self.poll()
        model, dataset = self.random.choice(self._world.models), self.random.choice(self._world.datasets)
        body = {"model": model, "dataset": dataset, "preset": "int8-static"}
        self._order = {"json": body, "headers": {"Idempotency-Key": uuid.uuid4().hex}}
        if answer := await self._ask("POST", "/v1/jobs", **self._order):
            self._job = answer.json()["id"]
        return None

    async def wait(self) -> None:
        """Ask for the job again under its key, and for an answer when it has ended."""
        if not self._job:
            return await self.submit()
        order = self._order | {"headers": self._order["headers"] | {"Prefer": f"wait={WAIT_SECONDS}"}}
        name = f"POST /v1/jobs, wait={WAIT_SECONDS}"
        return await self._look(await self._ask("POST", "/v1/jobs", name=name, **order))

    async def poll(self) -> None:
        if not self._job:
            return await self.submit()
        return await self._look(await self._ask("GET", f"/v1/jobs/{self._job}", name="GET /v1/jobs/{id}"))

    async def list_jobs(self) -> None:
        await self._ask("GET", "/v1/jobs")

    async def list_models(self) -> None:
        await self._ask("GET", "/v1/models")

    async def read_report(self) -> None:
        job = self.random.choice(self._world.files).job_id
        await self._ask("GET", f"/v1/jobs/{job}/report", name="GET …/report")

    async def download(self) -> None:
        """Download a whole file, and compare its digest."""
        file = self.random.choice(self._world.files)
        answer = await self._ask("GET", f"/v1/jobs/{file.job_id}/artifacts/{file.name}", name="GET …/artifacts/{name}")
        if answer and hashlib.sha256(answer.content).hexdigest() != file.sha256:
            self._answers.refusals["GET …/artifacts/{name}"][Refusal(WRONG, "other bytes")] += 1

    async def download_part(self) -> None:
        file = self.random.choice(self._world.files)
        first = self.random.randrange(file.bytes)
        last = min(first + RANGE_BYTES, file.bytes) - 1
        path, name = f"/v1/jobs/{file.job_id}/artifacts/{file.name}", "GET …/artifacts/{name}, Range"
        answer = await self._ask("GET", path, name=name, headers={"Range": f"bytes={first}-{last}"})
        if answer and (answer.status_code, len(answer.content)) != (206, last - first + 1):
            self._answers.refusals[name][Refusal(WRONG, "another part")] += 1

    async def _look(self, answer: httpx.Response | None) -> None:
        if not answer or answer.json()["state"] not in TERMINAL:
            return
        job, self._job = answer.json(), None
        self._world.ended += 1
        if job["state"] != "succeeded":
            self._answers.refusals["GET /v1/jobs/{id}"][Refusal(WRONG, f"the job {job['state']}")] += 1
        elif listed := await self._ask("GET", f"/v1/jobs/{job['id']}/artifacts", name="GET …/artifacts"):
            self._world.files.extend(File(job["id"], one["name"], one["bytes"], one["sha256"]) for one in listed.json())

    async def _ask(self, method: str, path: str, *, name: str = "", **content: Any) -> httpx.Response | None:
        """Return a success, and count what came."""
        endpoint = name or f"{method} {path}"
        began = self.planned or time.perf_counter()
        self.planned = None
        try:
            answer = await self.client.request(method, path, **content)
        except httpx.TransportError as error:
            self._answers.refusals[endpoint][Refusal(NO_ANSWER, type(error).__name__)] += 1
            return None
        if answer.is_success:
            self._answers.seconds[endpoint].append(time.perf_counter() - began)
            return answer
        self._answers.refusals[endpoint][Refusal(answer.status_code, _code(answer))] += 1
        self.pause = min(float(answer.headers.get("Retry-After", 0)), LONGEST_PAUSE_SECONDS)
        return None


STEPS: Mapping[Callable[[Caller], Awaitable[None]], int] = {
    Caller.upload_model: 2,
    Caller.upload_dataset: 4,
    Caller.submit: 4,
    Caller.wait: 6,
    Caller.poll: 40,
    Caller.list_jobs: 8,
    Caller.list_models: 6,
    Caller.read_report: 6,
    Caller.download: 12,
    Caller.download_part: 12,
}
"""What users do, by how often they do it."""


async def closed_loop(callers: list[Caller], seconds: float, pause_seconds: float) -> None:
    """Have every caller ask, think for `pause_seconds` on average, and ask again."""
    until = time.perf_counter() + seconds

    async def call(caller: Caller) -> None:
        while time.perf_counter() < until:
            await caller.step()
            await asyncio.sleep(caller.random.uniform(0, 2 * pause_seconds) + caller.pause)

    await asyncio.gather(*map(call, callers))


async def open_loop(callers: list[Caller], seconds: float, rate: float) -> None:
    """Begin `rate` requests a second, whatever became of those before."""
    planned: asyncio.Queue[float | None] = asyncio.Queue()

    async def call(caller: Caller) -> None:
        while (at := await planned.get()) is not None:
            caller.planned = at
            await caller.step()

    async def plan() -> None:
        times, began = random.Random("arrivals"), time.perf_counter()
        at = began + times.expovariate(rate)
        while at < began + seconds:
            await asyncio.sleep(max(0, at - time.perf_counter()))
            planned.put_nowait(at)
            at += times.expovariate(rate)
        for _ in callers:
            planned.put_nowait(None)

    await asyncio.gather(plan(), *map(call, callers))


def _code(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["code"])
    except (ValueError, LookupError):
        return "without a code"
