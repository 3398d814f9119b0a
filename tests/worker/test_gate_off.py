"""Were the gate to have a hole: hostile programs go straight to a job, and the sandbox alone keeps their code idle.

The same files, loaded by plain torch outside, make their canaries; else an absent one would mean nothing.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from sandbox.policy import Sandbox, command
from tests.honest_archive import honest_members
from tests.hostile_uploads import ATTACKS
from tests.networks import convolutional
from tests.servers import ROOT
from tests.upload_archives import Members, write
from worker.child.process import started
from zeropoint.schema.job import JOB_FILE, JobSpec

PAYLOADS = (
    "pickled weight",
    "pickled sample inputs",
    "weights twice",
    "size that is code",
    "input name with a default",
    "guards",
)
LOAD = """
import sys, torch
for path in sys.argv[1:]:
    try:
        torch.export.load(path).module()(torch.rand(4, 1, 8, 8))
    except Exception:
        pass
"""


@pytest.fixture(scope="module")
def members() -> Members:
    return honest_members()


def hostile(name: str, members: Members, folder: Path) -> tuple[Path, Path]:
    """The file, and the canary that its code would make outside of the job's folder."""
    folder.mkdir()
    changed, canary = dict(members), folder.parent / f"CANARY {name}"
    ATTACKS[name].change(changed, canary)
    return write(changed, folder / "model.pt2"), canary


@pytest.mark.slow
def test_outside_their_code_runs(tmp_path: Path, members: Members) -> None:
    files = {name: hostile(name, members, tmp_path / name.replace(" ", "_")) for name in PAYLOADS}
    subprocess.run([sys.executable, "-c", LOAD, *(str(path) for path, _ in files.values())], cwd=ROOT, check=False)
    assert [name for name, (_, canary) in files.items() if not canary.exists()] == []


@pytest.mark.slow
@pytest.mark.sampled(7)
@pytest.mark.parametrize("name", PAYLOADS)
def test_in_the_sandbox_it_does_nothing(tmp_path: Path, members: Members, name: str) -> None:
    folder = tmp_path / "job"
    _, canary = hostile(name, members, folder)
    convolutional().save_dataset(folder / "dataset.safetensors")
    (folder / JOB_FILE).write_text(JobSpec(model="model.pt2", dataset="dataset.safetensors").model_dump_json())
    with started(command("job", Sandbox()), folder) as child:
        child.go()
        while not child.ended:
            child.read(1)
    assert not canary.exists()
