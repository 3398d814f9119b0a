"""What the main process of a worker is asked for: itself, its slots and jobs, disks and GPUs.

Pool processes and jobs' programs count nothing: they come and go, and what became of a job is counted in rows.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from app.metrics import disk, gauge
from app.settings import Settings
from app.storage import folder_of
from worker.child.usage import memory_by_part
from worker.gpu import gpus

OF_WORKER = CollectorRegistry()
ANNOUNCED = Gauge(
    "zeropoint_worker_announced_timestamp_seconds", "When this worker last announced itself.", registry=OF_WORKER
)


@dataclass(frozen=True, eq=False)
class WorkerMetrics(Collector):
    """Those of a worker with these settings."""

    settings: Settings

    def collect(self) -> Iterator[Metric]:
        settings = self.settings
        yield from OF_WORKER.collect()
        yield gauge("zeropoint_worker_info", "1, with the device.", {str(settings.worker_device): 1.0}, ["device"])
        yield gauge("zeropoint_worker_slots", "Jobs that it runs at once.", float(settings.worker_slots))
        words = (
            "Memory of its processes: main, slots (which supervise jobs), jobs (their programs and templates), mlflow."
        )
        yield gauge("zeropoint_worker_memory_bytes", words, memory_by_part(os.getpid()), ["part"])
        yield from disk(self._folders())
        yield from _gpus()

    def _folders(self) -> dict[str, str]:
        folders = {"scratch": str(self.settings.scratch_dir)}
        if self.settings.storage_url.startswith("file:"):
            folders["storage"] = str(folder_of(self.settings.storage_url))
        return folders


def _gpus() -> Iterator[Metric]:
    if found := {str(gpu.number): gpu for gpu in gpus()}:
        total = {number: float(gpu.memory_bytes) for number, gpu in found.items()}
        yield gauge("zeropoint_gpu_memory_bytes", "Memory of a GPU.", total, ["gpu"])
        used = {number: float(gpu.used_bytes) for number, gpu in found.items()}
        yield gauge("zeropoint_gpu_memory_used_bytes", "Memory of a GPU in use, by whomever.", used, ["gpu"])
        busy = {number: gpu.busy for number, gpu in found.items()}
        yield gauge("zeropoint_gpu_busy_ratio", "Share of the last moment in which a GPU computed.", busy, ["gpu"])
