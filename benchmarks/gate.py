"""What the gate costs: time as a share of hashing the same bytes, and the peak memory of its process.

python -m benchmarks.gate            programs of 1 MiB, 256 MiB and 1 GiB of weights, and a 2 MiB bomb of 2 GiB
python -m benchmarks.gate FILE       one file, in a process that loads nothing else
"""

import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from app.errors import Invalid
from app.intake.gate import pass_gate
from app.intake.limits import Limits
from zeropoint.simulation.processor import features

EXPORT = """
import sys, torch
size, path = int(sys.argv[1]), sys.argv[2]
width = min(4096, int((size / 4) ** 0.5))
layers = [torch.nn.Linear(width, width, bias=False) for _ in range(max(1, size // (4 * width * width)))]
torch.export.save(torch.export.export(torch.nn.Sequential(*layers), (torch.zeros(2, width),)), path)
"""


def measure(path: Path) -> None:
    """Print what one passage took, as JSON."""
    started = time.perf_counter()
    with path.open("rb") as file:
        hashlib.file_digest(file, "sha256")
    hashed, started, answer = time.perf_counter() - started, time.perf_counter(), "taken"
    try:
        pass_gate("model", path, Limits(), lambda _: None)
    except Invalid as refusal:
        answer = f"refused: {refusal.code}"
    passed = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(json.dumps({"answer": answer, "seconds": passed, "ratio": passed / hashed, "peak": peak}))


def report(name: str, path: Path) -> None:
    """Measure three times; print the medians."""
    command = [sys.executable, "-m", "benchmarks.gate", str(path)]
    rounds = [json.loads(subprocess.run(command, capture_output=True, check=True).stdout) for _ in range(3)]
    seconds, ratio, peak = (sorted(one[key] for one in rounds)[1] for key in ("seconds", "ratio", "peak"))
    print(f"{name:12}{rounds[0]['answer']:28}{seconds:7.2f} s {ratio:7.2f} x sha256   peak {peak:.0f} MiB")


def main() -> None:
    """Measure every file."""
    print(features(), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        path, bomb = Path(folder) / "model.pt2", Path(folder) / "bomb.pt2"
        with (
            zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive,
            archive.open("model/models/model.json", "w", force_zip64=True) as file,
        ):
            for _ in range(2048):
                file.write(bytes(2**20))
        report("bomb", bomb)
        for size in (2**20, 2**28, 2**30):
            subprocess.run([sys.executable, "-c", EXPORT, str(size), str(path)], check=True, capture_output=True)
            report(f"{size >> 20} MiB", path)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(Path(sys.argv[1]))
    else:
        main()
