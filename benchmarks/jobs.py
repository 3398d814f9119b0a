"""What the service adds to a small job, and how many tiny jobs it does a minute: `python -m benchmarks.jobs [JOBS]`.

Overhead of a job: from the submit to the answer that says `succeeded`, less the child's own work (the sum of `timings`
in its report). Jobs come one at a time, with a pause in which the next process gets ready, as jobs of one user do.

Throughput: JOBS jobs queued at once, until the last has ended, with one slot and with two, in turns. The two cores of
the machine are shared by all of it, so growth says whether one slot leaves anything over, not what more machines give.
"""

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from tests.networks import convolutional
from tests.service.running import TERMINAL, Running, service
from zeropoint.simulation.processor import features

PAUSE_SECONDS = 6.0
POLL_SECONDS = 0.01
ROUNDS = 3


def main(arguments: list[str]) -> None:
    print(features(), flush=True)
    jobs = int(arguments[0]) if arguments else 8
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        program = convolutional().export(folder / "program.pt2")
        samples = convolutional(40).save_dataset(folder / "samples.safetensors")
        with service(folder / "single", environment(1)) as running:
            overheads = [overhead(running, program, samples) for _ in range(jobs)]
        print(f"overhead of a small job, {jobs} jobs: {spread(overheads)} s")
        rates: dict[int, list[float]] = {1: [], 2: []}
        for turn in range(ROUNDS):
            for slots, found in rates.items():
                with service(folder / f"{turn}-{slots}", environment(slots)) as running:
                    found.append(throughput(running, program, samples, jobs))
        for slots, found in rates.items():
            print(f"tiny jobs a minute with {slots} slot(s), {ROUNDS} rounds of {jobs}: {spread(found)}")
        print(f"growth: {statistics.median(rates[2]) / statistics.median(rates[1]):.2f}")


def environment(slots: int) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ZEROPOINT_")}  # noqa: TID251
    return {**clean, "ZEROPOINT_WORKER_SLOTS": str(slots)}


def overhead(running: Running, program: Path, samples: Path) -> float:
    model, dataset = running.upload("models", program), running.upload("datasets", samples)
    time.sleep(PAUSE_SECONDS)
    began = time.monotonic()
    job_id = submit(running, model, dataset)
    while running.job(job_id)["state"] not in TERMINAL:
        time.sleep(POLL_SECONDS)
    took = time.monotonic() - began
    report = running.client.get(f"/v1/jobs/{job_id}/report").raise_for_status().json()
    return took - float(sum(report["timings"].values()))


def throughput(running: Running, program: Path, samples: Path, jobs: int) -> float:
    model, dataset = running.upload("models", program), running.upload("datasets", samples)
    began = time.monotonic()
    for job_id in [submit(running, model, dataset) for _ in range(jobs)]:
        assert running.ended(job_id)["state"] == "succeeded"
    return 60 * jobs / (time.monotonic() - began)


def submit(running: Running, model: str, dataset: str) -> str:
    wish = {"model": model, "dataset": dataset, "preset": "int8-static"}
    job_id: str = running.client.post("/v1/jobs", json=wish).raise_for_status().json()["id"]
    return job_id


def spread(values: list[float]) -> str:
    return f"{min(values):.2f} / {statistics.median(values):.2f} / {max(values):.2f} (least, median, most)"


if __name__ == "__main__":
    main(sys.argv[1:])
