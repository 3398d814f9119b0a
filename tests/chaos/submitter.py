"""A caller who repeats a request under its key until it is answered, and remembers what was promised then."""

import random
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx

from tests.chaos.program import Kind

PAUSE_SECONDS = 0.3
AGAIN_SECONDS = 0.1
ANSWER_SECONDS = 5.0
PATIENCE_SECONDS = 90.0
MOST_WAITING = 8
"""Beyond, it holds back: jobs that wait find no faults, and take their time after the last kill."""
CANCELLED_SHARE = 0.08
SHORT_MILLISECONDS = (100, 1000)
KINDS = {Kind.GOOD: 70, Kind.REFUSES: 14, Kind.CRASHES: 16}


@dataclass(frozen=True)
class Promise:
    """A job that the API answered 202 for."""

    job_id: str
    seed: int
    cancelled: bool = False


class Submitter:
    """A thread that submits while this is entered. A job works for longer than two leases with `long_share`."""

    def __init__(self, address: str, seed: int, lease_seconds: float, long_share: float) -> None:
        self.promises: list[Promise] = []
        self.answers: Counter[int] = Counter()
        self._lease_seconds = lease_seconds
        self._long_share = long_share
        self._random = random.Random(f"submitter {seed}")
        self._client = httpx.Client(base_url=address, timeout=ANSWER_SECONDS, trust_env=False)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._submit_until_over, name="submitter")
        self._model = ""

    def upload(self, path: Path) -> None:
        """The model of every job."""
        answer = self._client.post("/v1/models?name=model", content=path.read_bytes(), timeout=PATIENCE_SECONDS)
        assert answer.status_code == 201, answer.text
        self._model = answer.json()["id"]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def close(self) -> None:
        self._client.close()

    def submit(self, kind: Kind, milliseconds: int, *, cancel: bool = False) -> None:
        """Ask until it is promised."""
        seed = 10 * len(self.promises) + kind
        recipe: dict[str, Any] = {"activations": None, "seed": seed}
        if kind is not Kind.REAL:
            recipe |= {"formats": ["safetensors"], "calibration": {"samples": milliseconds}}
        job = self._ask_until_accepted({"model": self._model, "recipe": recipe}, key=f"number-{seed}")
        self.promises.append(Promise(job, seed, cancel and self._cancel(job)))

    def _submit_until_over(self) -> None:
        while not self._over.wait(self._random.uniform(0, 2 * PAUSE_SECONDS)):
            if self._waiting() >= MOST_WAITING:
                continue
            (kind,) = self._random.choices(list(KINDS), list(KINDS.values()))
            long = self._random.random() < self._long_share
            milliseconds = round(2300 * self._lease_seconds) if long else self._random.randint(*SHORT_MILLISECONDS)
            self.submit(kind, milliseconds, cancel=self._random.random() < CANCELLED_SHARE)

    def _ask_until_accepted(self, body: dict[str, Any], key: str) -> str:
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < give_up_at:
            try:
                answer = self._client.post("/v1/jobs", json=body, headers={"Idempotency-Key": key})
            except httpx.TransportError:
                time.sleep(AGAIN_SECONDS)
                continue
            self.answers[answer.status_code] += 1
            if answer.status_code == 202:
                job: str = answer.json()["id"]
                return job
            assert answer.status_code >= 500, answer.text
            time.sleep(AGAIN_SECONDS)
        raise AssertionError("the API did not come back")

    def _waiting(self) -> int:
        try:
            answer = self._client.get(f"/v1/jobs?state=queued&limit={MOST_WAITING}")
        except httpx.TransportError:
            return 0
        self.answers[answer.status_code] += 1
        return len(answer.json()["items"]) if answer.status_code == 200 else 0

    def _cancel(self, job_id: str) -> bool:
        """Ask once, a little later; whether that was heard is not known when the answer is lost."""
        time.sleep(self._random.uniform(0, 0.5))
        try:
            answer = self._client.post(f"/v1/jobs/{job_id}/cancel")
        except httpx.TransportError:
            return True
        self.answers[answer.status_code] += 1
        return answer.status_code != 409
