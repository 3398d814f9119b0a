"""How much memory an upload costs the API: peak resident set (VmHWM) before and after, for a raw body and a form.

python -m benchmarks.upload_memory [GIB]
"""

import json
import os
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from app.database import migrate
from app.settings import Settings
from tests.servers import api_process
from zeropoint.simulation.processor import features

CURL = {"raw": ["-X", "POST", "-T"], "form": ["-F"]}


def write_sparse_dataset(path: Path, size: int) -> Path:
    """Write a dataset of about `size` bytes that takes no room on disk."""
    rows = size // 1024
    entry = {"dtype": "U8", "shape": [rows, 1024], "data_offsets": [0, rows * 1024]}
    header = json.dumps({"x": entry}).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + rows * 1024)
    return path


def upload(address: str, dataset: Path, how: str) -> int:
    """Send a dataset with curl; return the status."""
    source = str(dataset) if how == "raw" else f"file=@{dataset}"
    command = ["curl", "-sS", "-o", os.devnull, "-w", "%{http_code}", *CURL[how], source, f"{address}/v1/datasets"]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def peak_bytes(process_id: int) -> int:
    """Return the largest resident set that a process has had."""
    status = Path(f"/proc/{process_id}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def main(gib: int) -> None:
    """Print one line for each way to upload."""
    print(features(), flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset = write_sparse_dataset(folder / "dataset.safetensors", gib * 2**30)
        for how in CURL:
            settings = {
                "ZEROPOINT_DATABASE_URL": f"sqlite:///{folder}/{how}.db",
                "ZEROPOINT_STORAGE_URL": f"file:{folder}/{how}",
                "ZEROPOINT_MAX_UPLOAD_BYTES": str((gib + 1) * 2**30),
            }
            migrate(Settings(database_url=settings["ZEROPOINT_DATABASE_URL"]))
            with api_process(settings, folder / "log") as (process_id, address):
                warm = write_sparse_dataset(folder / "warm.safetensors", 2**20)
                upload(address, warm, how)
                before, started = peak_bytes(process_id), time.monotonic()
                status = upload(address, dataset, how)
                seconds, after = time.monotonic() - started, peak_bytes(process_id)
            print(
                f"{how}: {gib} GiB, answer {status}, {seconds:.1f} s; peak before {before / 2**20:.1f} MiB, "
                f"after {after / 2**20:.1f} MiB, growth {(after - before) / 2**20:.1f} MiB"
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
