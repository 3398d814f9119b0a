"""Folders of jobs: locked by those who live, swept when those are gone."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.servers import ROOT
from worker.child.scratch import make_folder, remove_stale

HOLD = """
import sys, time
from pathlib import Path
from worker.child.scratch import make_folder
folder = make_folder(Path(sys.argv[1]))
folder.move(Path(sys.argv[1]) / "job_1" / "1")
(folder.path / "model.pt2").touch()
print("ready", flush=True)
time.sleep(60)
"""


def test_a_folder_is_empty_and_its_owner_s_alone(tmp_path: Path) -> None:
    one, two = make_folder(tmp_path / "scratch"), make_folder(tmp_path / "scratch")
    assert one.path != two.path
    assert list(one.path.iterdir()) == []
    assert one.path.stat().st_mode & 0o777 == 0o700


def test_a_folder_moves_and_leaves_nothing_when_it_is_removed(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    folder.move(tmp_path / "job_1" / "1")
    (folder.path / "out").mkdir()
    folder.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.lock"]


def test_another_attempt_s_folder_stays(tmp_path: Path) -> None:
    folders = [make_folder(tmp_path) for _ in range(2)]
    for token, folder in enumerate(folders):
        folder.move(tmp_path / "job_1" / str(token))
    folders[0].remove()
    assert folders[1].path.is_dir()


def test_nothing_that_somebody_holds_is_swept(tmp_path: Path) -> None:
    prestarted, moved = make_folder(tmp_path), make_folder(tmp_path)
    moved.move(tmp_path / "job_1" / "1")
    assert remove_stale(tmp_path) == 0
    assert prestarted.path.is_dir()
    assert moved.path.is_dir()


def test_what_a_dead_process_left_is_swept_and_what_a_stopped_one_has_is_not(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    os.kill(process.pid, signal.SIGSTOP)
    assert remove_stale(tmp_path) == 0
    process.kill()
    process.wait()
    process.stdout.close()
    assert remove_stale(tmp_path) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.lock"]


def test_files_beside_the_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "announced").touch()
    assert remove_stale(tmp_path) == 0
    assert (tmp_path / "announced").exists()


def test_a_scratch_that_is_not_there_needs_no_sweep(tmp_path: Path) -> None:
    assert remove_stale(tmp_path / "none") == 0
