"""A job's program that takes no time of a processor: it keeps the contract of zeropoint/schema/job.py, and no more.

What is tested is what carries jobs, and torch would have to be imported twice for each. The recipe says what to do:
`seed` is ten times the job's number plus its Kind, `calibration.samples` how many milliseconds to work. A REAL job is
done by the program that the command line names behind this one's name. Nothing but the standard library is imported.
"""

import hashlib
import json
import os
import signal
import sys
import time
from enum import IntEnum
from pathlib import Path
from typing import Any

GO = b"go\n"
STEP_SECONDS = 0.1


class Kind(IntEnum):
    """How a job ends, if it is let."""

    GOOD = 0
    CRASHES = 1
    REFUSES = 2
    REAL = 3


ERROR = {"code": "program_invalid", "title": "No", "detail": "It was told to refuse.", "remedy": "None."}


def kind_of(seed: int) -> Kind:
    return Kind(seed % 10)


def model_bytes(seed: int) -> bytes:
    """A safetensors file that only this job can have made."""
    data = hashlib.sha256(str(seed).encode()).digest()
    header = json.dumps({"weight": {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}}).encode()
    return len(header).to_bytes(8, "little") + header + data


def report_bytes(recipe: dict[str, Any]) -> bytes:
    """A report that says little, and is one."""
    summary = {"sqnr_db": None, "exact": True, "dead_bytes": 0, "layers_quantized": 0, "layers_skipped": 0}
    sizes = {"original_bytes": 1, "quantized_bytes": 1, "compression_ratio": 1.0}
    report = {
        "verdict": "passed",
        "summary": summary | sizes,
        "checks": [],
        "layers": [],
        "skipped": [],
        "calibration": {"samples": 0, "batches": 0, "batch_size": 1, "passes": 0, "reused": False},
        "evaluation": {"source": "none", "samples": 0},
        "timings": {},
        "peak_memory_bytes": 0,
        "recipe": recipe,
        "versions": {},
    }
    return json.dumps(report, sort_keys=True).encode()


def main(real: list[str]) -> int:
    """Wait for the word, work, end as told."""
    if sys.stdin.buffer.readline() != GO:
        return 0
    recipe = json.loads(Path("job.json").read_bytes())["recipe"]
    kind = kind_of(recipe["seed"])
    if kind is Kind.REAL:
        _become(real)
    _work(recipe["calibration"]["samples"] / 1000)
    return _end(kind, recipe)


def _become(real: list[str]) -> None:
    """Be the real program from here on, and let it read the word once more."""
    reads, writes = os.pipe()
    os.write(writes, GO)
    os.dup2(reads, 0)
    os.execv(sys.executable, [sys.executable, *real])


def _work(seconds: float) -> None:
    steps = max(1, round(seconds / STEP_SECONDS))
    for done in range(steps):
        sys.stdout.write(json.dumps({"phase": "calibrating", "done": done, "total": steps}) + "\n")
        sys.stdout.flush()
        time.sleep(STEP_SECONDS)


def _end(kind: Kind, recipe: dict[str, Any]) -> int:
    out = Path("out")
    out.mkdir()
    if kind is Kind.CRASHES:
        os.kill(os.getpid(), signal.SIGSEGV)
    if kind is Kind.REFUSES:
        (out / "error.json").write_text(json.dumps(ERROR))
        return 1
    (out / "model.safetensors").write_bytes(model_bytes(recipe["seed"]))
    (out / "report.json").write_bytes(report_bytes(recipe))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
