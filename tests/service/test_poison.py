"""Jobs that do the worst a program can do, beside honest ones: each ends at once as its own code, and harms no other.

The gate lets none of this in. Here its work is undone: the stored file of a model is replaced by one with live code in
it, which runs in the job's process, inside of the sandbox, before the model is there.
"""

import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from app.catalog.models import Model
from app.database import begin_writing, connected
from app.settings import Settings
from app.storage import open_storage
from tests.effort import in_turn
from tests.honest_archive import honest_members
from tests.service.running import Running, service
from tests.upload_archives import write
from worker.child.process import STDERR_CAP

pytestmark = [pytest.mark.service, pytest.mark.own_service]

MEMORY, DISK = 6 << 30, 32 << 20
LIMITS = {
    "ZEROPOINT_WORKER_SLOTS": "2",
    "ZEROPOINT_JOB_MEMORY_BYTES": str(MEMORY),
    "ZEROPOINT_JOB_DISK_BYTES": str(DISK),
}
POISONS = {
    "eats memory": ("h = []\nwhile True: h.append(bytearray(b'x') * (1 << 27))", "out_of_memory"),
    "segfaults": ("__import__('ctypes').string_at(0)", "crashed"),
    "aborts": ("os.abort()", "crashed"),
    "starts a program": ("os.execv('/bin/true', ['true'])", "sandbox_violation"),
    "forks": ("while True: os.fork()", "sandbox_violation"),
    "never ends and ignores SIGTERM": (
        "__import__('signal').signal(15, 1)\nwhile True: time.sleep(1)",
        "wall_time_limit",
    ),
    "fills the disk": ("f = open('fill', 'wb')\nwhile True: f.write(bytes(1 << 20)); f.flush()", "disk_limit"),
    "fills the disk with small files": (
        "i = 0\nwhile True: open(f'f{i}', 'wb').write(bytes(1 << 20)); i += 1",
        "disk_limit",
    ),
    "floods standard error": ("for _ in range(128): os.write(2, b'x' * (1 << 20))\nos._exit(3)", "crashed"),
    "floods standard output": ("for _ in range(32): os.write(1, b'y' * (1 << 20))\nos._exit(3)", "crashed"),
    "lies about its progress": (
        'while True: os.write(1, b\'{"phase":"publishing","done":9,"total":9}\\n\' * 1000)',
        "wall_time_limit",
    ),
    "claims to be done": ("os._exit(0)", "invalid_output"),
    "gives a code that nobody knows": (
        "os.makedirs('out', exist_ok=True)\nopen('out/error.json', 'w').write("
        '\'{"code": "splendid", "title": "a", "detail": "/etc/passwd", "remedy": "c"}\')\nos._exit(1)',
        "invalid_output",
    ),
}


TAKEN = {name: poison for position, (name, poison) in enumerate(POISONS.items()) if in_turn(5, position)}


class Run:
    """A pickle that runs code."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, (f"import os, time\n{self.code}",)


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory, environment: Mapping[str, str]) -> Iterator[Running]:
    with service(tmp_path_factory.mktemp("poisoned"), {**environment, **LIMITS}) as running:
        yield running


def poison(running: Running, program: Path, code: str) -> str:
    """Upload an honest model, and put live code in the place of what the gate wrote for it."""
    members = dict(honest_members())
    members["data/sample_inputs/model.pt"] = pickle.dumps(Run(code))
    model = running.upload("models", program)
    settings = Settings(
        database_url=f"sqlite:///{running.data}/zeropoint.db", storage_url=f"file://{running.data}/storage"
    )
    blob = open_storage(settings).put_file(write(members, running.data / f"{model}.pt2"))
    with connected(settings) as sessions, sessions() as session:
        begin_writing(session)
        row = session.get_one(Model, model)
        row.stored_sha256, row.stored_bytes = blob.sha256, blob.bytes
        session.commit()
    return model


def submit(running: Running, model: str, dataset: str, **more: Any) -> str:
    wish = {"model": model, "dataset": dataset, "preset": "int8-static", **more}
    job_id: str = running.client.post("/v1/jobs", json=wish).raise_for_status().json()["id"]
    return job_id


def test_each_ends_as_its_own_code_and_none_harms_another(poisoned: Running, program: Path, few_samples: Path) -> None:
    honest, dataset = poisoned.upload("models", program), poisoned.upload("datasets", few_samples)
    jobs, controls = {}, []
    for number, (name, (code, expected)) in enumerate(TAKEN.items()):
        model = poison(poisoned, program, code)
        limits = {"running_seconds": 3} if expected == "wall_time_limit" else {}  # its own limit must come first
        jobs[name] = submit(poisoned, model, dataset, limits=limits, owner="poison")
        if number % 4 == 0:
            controls.append(submit(poisoned, honest, dataset, owner="honest"))
    ended = {name: poisoned.ended(job_id) for name, job_id in jobs.items()}
    found = {name: (job["state"], job["attempts"], job["error"]["code"]) for name, job in ended.items()}
    assert found == {name: ("failed", 1, code) for name, (_, code) in TAKEN.items()}
    assert {poisoned.ended(job_id)["state"] for job_id in controls} == {"succeeded"}
    assert {poisoned.job(job_id)["attempts"] for job_id in controls} == {1}
    for job in ended.values():
        assert job["error"]["remedy"]
        assert "/etc/passwd" not in str(job)
    assert sum(path.stat().st_size for path in (poisoned.data / "logs").iterdir()) < len(TAKEN) * STDERR_CAP
    assert poisoned.client.get("/readyz").status_code == 200
