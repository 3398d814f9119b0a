"""Whether the service answers, refuses or sheds, and never stalls: latencies by endpoint, refusals, memory over time.

python -m benchmarks.load [--seconds 20] [--clients 50] [--database sqlite|postgresql] [--open RATE] [--soak SECONDS]

A whole service (API, worker, Redis) on loopback, whose worker is busy all the time, and its callers beside it on the
same machine. By default a closed loop, which saturates it; --open RATE begins so many requests a second, whatever
became of those before, and counts latency from the planned time. --soak: as long as you say, with callers that think
between two requests, to see memory grow. Ends with 1 when /healthz once took over a second, when there was a 5xx other
than 503 and 507, no answer or wrong bytes, and when a part's memory grew after the first 10 s by more than --growth.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.traffic.answers import Answers
from benchmarks.traffic.callers import Caller, World, closed_loop, open_loop
from benchmarks.traffic.database import database
from benchmarks.traffic.watching import HEALTH_PAUSE_SECONDS, MEMORY_PAUSE_SECONDS, Every, Growth, Health, Memory
from tests.networks import convolutional
from tests.service.running import Running, service
from zeropoint.simulation.processor import features

HEALTH_SECONDS = 1.0
GROWTH_MIB = 32.0
SOAK_PAUSE_SECONDS = 1.0
SAMPLES = 40


@dataclass(frozen=True)
class Plan:
    """How long, by how many, and how: `rate` None is a closed loop with `pause_seconds` between two requests."""

    seconds: float
    clients: int
    database: str
    rate: float | None = None
    pause_seconds: float = 0.0
    growth_mib: float = GROWTH_MIB

    def __str__(self) -> str:
        how = f"open loop, {self.rate:g} requests a second" if self.rate else "closed loop"
        thinks = f", {self.pause_seconds:g} s between two requests" if self.pause_seconds else ""
        return f"{self.database}, {self.clients} clients for {self.seconds:g} s, {how}{thinks}"


@dataclass(frozen=True)
class Outcome:
    """What was measured."""

    plan: Plan
    answers: Answers
    health: Health
    memory: Memory
    jobs: int
    took: float

    def faults(self) -> list[str]:
        """Return each reason why this service would not do."""
        faults = self.answers.faults()
        if max(self.health.seconds) > HEALTH_SECONDS or self.health.refused:
            faults.append(str(self.health))
        return faults + [f"grew: {growth}" for growth in self.memory.growth() if growth.mib > self.plan.growth_mib]

    def __str__(self) -> str:
        answered = sum(map(len, self.answers.seconds.values()))
        refused = sum(refusals.total() for refusals in self.answers.refusals.values())
        counts = f"{answered} successes ({answered / self.took:.0f} a second), {refused} refusals, {self.jobs} jobs"
        growth: Sequence[Growth | str] = self.memory.growth() or ["too short to see memory grow"]
        parts = [self.plan, counts, "", self.answers.table(), "", self.health, self.memory, *growth]
        return "\n".join(map(str, parts))


def main(arguments: Sequence[str]) -> int:
    plan = plan_of(arguments)
    print(features(), os.cpu_count(), "cores", flush=True)
    outcome = load(plan)
    print(outcome)
    faults = outcome.faults()
    print("\n".join(["faults:", *faults]) if faults else "no faults")
    return bool(faults)


def plan_of(arguments: Sequence[str]) -> Plan:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--open", type=float, metavar="RATE", help="requests a second")
    parser.add_argument("--soak", type=float, metavar="SECONDS")
    parser.add_argument("--growth", type=float, metavar="MIB", default=GROWTH_MIB)
    given = parser.parse_args(arguments)
    pause = SOAK_PAUSE_SECONDS if given.soak else 0.0
    return Plan(given.soak or given.seconds, given.clients, given.database, given.open, pause, given.growth)


def load(plan: Plan) -> Outcome:
    """Start a service, load it, stop it, and return what was measured."""
    with tempfile.TemporaryDirectory() as name, database(plan.database) as settings:
        folder = Path(name)
        model = convolutional().export(folder / "model.pt2").read_bytes()
        dataset = convolutional(SAMPLES).save_dataset(folder / "samples.safetensors").read_bytes()
        with service(folder / "data", {**clean_environment(), **settings}) as running:
            return loaded(plan, running, World(model, dataset))


def loaded(plan: Plan, running: Running, world: World) -> Outcome:
    answers, address = Answers(), str(running.client.base_url)
    health, memory = Health(address), Memory(running.process.pid)
    asyncio.run(first_job(address, world))
    began = time.perf_counter()
    with Every(HEALTH_PAUSE_SECONDS, health.ask), Every(MEMORY_PAUSE_SECONDS, memory.look):
        asyncio.run(call(plan, address, world, answers))
    return Outcome(plan, answers, health, memory, world.ended, time.perf_counter() - began)


async def first_job(address: str, world: World) -> None:
    """Have something to download."""
    caller = Caller(address, world, Answers(), "first")
    await caller.upload_model()
    await caller.upload_dataset()
    while not world.files:
        await caller.wait()
    await caller.close()


async def call(plan: Plan, address: str, world: World, answers: Answers) -> None:
    callers = [Caller(address, world, answers, f"caller {number}") for number in range(plan.clients)]
    if plan.rate:
        await open_loop(callers, plan.seconds, plan.rate)
    else:
        await closed_loop(callers, plan.seconds, plan.pause_seconds)
    await asyncio.gather(*(caller.close() for caller in callers))


def clean_environment() -> dict[str, str]:
    """Return this process's environment without settings of ours; programs are not compiled, which takes long."""
    theirs = {name: value for name, value in os.environ.items() if not name.startswith("ZEROPOINT_")}  # noqa: TID251
    return theirs | {"ZEROPOINT_COMPILE_SECONDS": "0"}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
