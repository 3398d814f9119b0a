"""What a child holds, seen from outside."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.room import RESERVE_BYTES
from worker.child.usage import Excess, UsageWatch, bytes_below, memory_of_group

MIB = 1 << 20


def test_memory_of_the_whole_group_counts_shared_or_not() -> None:
    hold = f"import mmap,time;m=mmap.mmap(-1,100*{MIB});m[:]=b'x'*len(m);print('held',flush=True);time.sleep(60)"
    program = f"import subprocess,sys;a=b'x'*(100*{MIB});subprocess.run([sys.executable,'-c',sys.argv[1]])"
    with subprocess.Popen(
        [sys.executable, "-c", program, hold], stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert memory_of_group(process.pid) > 200 * MIB
        os.killpg(process.pid, 9)
    assert memory_of_group(process.pid) == 0


def test_files_below_a_folder_count_with_what_they_take(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").write_bytes(bytes(MIB))
    (tmp_path / "link").symlink_to("/")
    with (tmp_path / "hole").open("wb") as hole:
        hole.truncate(100 * MIB)
    assert MIB <= bytes_below(tmp_path) < 2 * MIB


@pytest.mark.parametrize(
    ("memory", "disk", "excess"), [(1, 1 << 40, "memory"), (1 << 40, 1, "disk"), (1 << 40, 1 << 40, None)]
)
def test_what_is_too_much_is_named(memory: int, disk: int, excess: Excess | None, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(MIB))
    watch = UsageWatch(os.getpgid(0), tmp_path, memory, disk)
    watch.look()
    assert watch.excess == excess


def test_a_job_leaves_the_same_room_free_as_every_writer(tmp_path: Path) -> None:
    command = ["mount", "-t", "tmpfs", "-o", f"size={RESERVE_BYTES + MIB}", "tmpfs", str(tmp_path)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no file system may be mounted here")
    try:
        watch = UsageWatch(os.getpgid(0), tmp_path, 1 << 40, 1 << 40)
        watch.look()
        assert watch.excess is None
        (tmp_path / "somebody else's").write_bytes(bytes(2 * MIB))
        watch.look()
        assert watch.excess == "room"
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def test_a_group_of_very_many_processes_is_too_much(tmp_path: Path) -> None:
    forks = "[os.fork() or time.sleep(60) or os._exit(0) for _ in range(64)]"
    fork = f"import os,time;{forks};print(flush=True);time.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-S", "-c", fork], stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            watch = UsageWatch(process.pid, tmp_path, 1 << 40, 1 << 40)
            watch.look()
            assert watch.excess == "processes"
        finally:
            os.killpg(process.pid, 9)
