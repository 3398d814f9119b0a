"""What a worker exports: its processes by part, disks, and GPUs where the driver's library is."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from app.metrics import written
from app.settings import Settings
from tests.exposition import parse
from worker.child.usage import memory_by_part
from worker.gpu import LIBRARY, Gpu, gpus
from worker.metrics import WorkerMetrics

NVML = """
typedef struct { unsigned long long total, free, used; } memory;
typedef struct { unsigned int gpu, memory; } utilization;
int nvmlInit_v2(void) { return INIT; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned int *count) { *count = 3; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int number, void **device) {
    *device = (void *)(0x100000000ul + number);
    return number == 1 ? 15 : 0;
}
int nvmlDeviceGetMemoryInfo(void *device, memory *found) {
    found->total = 150ull << 30; found->used = 7ull << 30; found->free = found->total - found->used;
    return (unsigned long)device >> 32 == 1 ? 0 : 2;
}
int nvmlDeviceGetUtilizationRates(void *device, utilization *found) { found->gpu = 25; found->memory = 3; return 0; }
"""
"""The driver's interface as its header declares it, with three devices of which one is lost."""


def driver(folder: Path, init: int = 0) -> str:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    source, library = folder / "nvml.c", folder / LIBRARY
    source.write_text(NVML)
    subprocess.run([compiler, "-shared", "-fPIC", f"-DINIT={init}", "-o", library, source], check=True)
    return str(library)


def test_memory_and_use_of_gpus_are_read_from_the_driver(tmp_path: Path) -> None:
    assert gpus(driver(tmp_path)) == [Gpu(number, 150 << 30, 7 << 30, 0.25) for number in (0, 2)]


def test_a_driver_that_does_not_start_and_one_that_is_not_there_have_no_gpus(tmp_path: Path) -> None:
    assert gpus(driver(tmp_path, init=9)) == []
    assert gpus("libnothing-of-the-kind.so.1") == []


TREE = """
import subprocess, sys
program = "held = b'x' * int({size}); import sys; print(flush=True); sys.stdin.read()"
inner = program.format(size=40e6)
middle = f"import subprocess, sys; held = b'x' * int(20e6); p = subprocess.Popen([sys.executable, '-c', {inner!r}])\\n"
middle += "sys.stdin.read()"
process = subprocess.Popen([sys.executable, "-c", middle])
sys.stdin.read()
"""


def test_memory_is_that_of_the_main_process_its_slots_and_their_jobs() -> None:
    with subprocess.Popen([sys.executable, "-c", TREE], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()  # the innermost has its memory
        held = memory_by_part(process.pid)
        process.stdin.close()  # type: ignore[union-attr]
    assert held["main"] > 1e6
    assert 20e6 < held["slots"] < 40e6
    assert 40e6 < held["jobs"] < 60e6


def test_a_worker_exports_itself_its_disks_and_no_gpu_where_there_is_none(tmp_path: Path) -> None:
    settings = Settings(worker_slots=3, scratch_dir=tmp_path, storage_url=f"file:{tmp_path}")
    found = parse(written(WorkerMetrics(settings), "")[0].decode())
    assert found.value("zeropoint_worker_slots") == 3
    assert found.value("zeropoint_worker_info", device="cpu") == 1
    assert found.value("zeropoint_worker_memory_bytes", part="main") > 2**20
    assert set(found.values("zeropoint_disk_free_bytes")) == {("scratch",), ("storage",)}
    assert found.value("process_open_fds") > 0
    assert bool(found.values("zeropoint_gpu_memory_bytes")) == os.path.exists("/dev/nvidia0")
