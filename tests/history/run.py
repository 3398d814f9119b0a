"""One history: callers ask while the service is broken under their hands; then all settles, and all is looked at."""

import time
from collections import Counter
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.chaos.service import service
from tests.factories import safetensors
from tests.history.callers import Caller, World, asking, look_at_all, settle
from tests.history.checker import Violation, check
from tests.history.faults import Faults
from tests.history.records import Operation

CALLERS = 4
TARGETS = ("postgresql", "redis", "api", "one", "two")
UPLOAD_SECONDS = 90.0


@dataclass(frozen=True)
class Plan:
    """What a history is to be like."""

    database: str
    seconds: float
    seed: int
    lease_seconds: float = 2.0
    reconcile_seconds: float = 0.5
    breaks: bool = True
    pause_seconds: tuple[float, float] = (0.5, 2.0)
    """Between two faults."""
    settle_seconds: float = 120.0
    mutant: str = ""


@dataclass(frozen=True)
class Outcome:
    """What was seen, and what of it must not be."""

    plan: Plan
    history: list[Operation]
    faults: Counter[str]
    violations: list[Violation]
    settled_after: float

    def __str__(self) -> str:
        outcomes = Counter(one.outcome.value for one in self.history)
        kinds = Counter(one.kind.value for one in self.history)
        answers = Counter(one.status for one in self.history)
        return (
            f"seed {self.plan.seed}, {self.plan.seconds:.0f} s: {len(self.history)} operations {dict(outcomes)} "
            f"{dict(kinds)}, answers {dict(sorted(answers.items()))}; {self.faults.total()} faults "
            f"{dict(sorted(self.faults.items()))}; settled {self.settled_after:.0f} s after the last; "
            f"{len(self.violations)} violations"
        )


def run(plan: Plan, model: Path, folder: Path) -> Outcome:
    """Start a service in a folder, have callers use it while it is broken, and check what they saw."""
    seconds = {"LEASE": plan.lease_seconds, "RECONCILE": plan.reconcile_seconds, "WORKER_STOP": 1}
    with ExitStack() as stack:
        battered = stack.enter_context(service(plan.database, folder, seconds, plan.mutant, wired=True))
        battered.start()
        battered.wait_until_ready()
        world = World(upload(battered.address, model), safetensors(x=("F32", [4])))
        last, *callers = (
            stack.enter_context(closing(Caller(battered.address, world, plan.seed, number)))
            for number in range(CALLERS + 1)
        )
        harm = Faults(battered, plan.seed, TARGETS, plan.pause_seconds) if plan.breaks else nullcontext()
        with harm as faults, asking(callers):
            time.sleep(plan.seconds)
        battered.wait_until_ready()
        began = time.monotonic()
        settle(last, world, plan.settle_seconds)
        settled_after = time.monotonic() - began
        look_at_all(last, world)
    counted = faults.kills if faults else Counter[str]()
    return Outcome(plan, world.history, counted, check(world.history), settled_after)


def upload(address: str, model: Path) -> str:
    """The model of every job."""
    answer = httpx.post(f"{address}/v1/models", content=model.read_bytes(), timeout=UPLOAD_SECONDS, trust_env=False)
    assert answer.status_code == 201, answer.text
    identity: str = answer.json()["id"]
    return identity
