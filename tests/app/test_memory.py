"""What the settings promise fits into the memory that there is, or no process starts."""

from pathlib import Path

import pytest

from app.memory import OWN_BYTES, MemoryPlan, TooMuchPromised, plan_memory
from app.settings import Settings
from sandbox.machine import memory_bytes
from tests.app.test_cli import ended
from tests.servers import free_port

GIB = 2**30


def promised(plan: MemoryPlan) -> int:
    return 2 * OWN_BYTES + plan.gates * plan.gate_bytes + plan.slots * plan.job_bytes


@pytest.mark.parametrize("cores", [1, 2, 8, 96])
@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("gib", [4, 7, 16, 23, 64, 512])
def test_what_nobody_set_fits_every_machine(gib: int, cores: int, slots: int) -> None:
    plan = plan_memory(Settings(worker_slots=slots), gib * GIB, cores)
    assert promised(plan) <= gib * GIB
    assert plan.check(api=True, worker=True).startswith("admits ")
    assert 1 <= plan.gates <= cores
    assert plan.job_bytes <= 16 * GIB


def test_a_large_machine_has_the_settings_own_numbers() -> None:
    plan = plan_memory(Settings(), 512 * GIB, 8)
    assert (plan.gates, plan.gate_bytes, plan.job_bytes) == (8, 2 * GIB, 16 * GIB)


@pytest.mark.parametrize(
    ("settings", "processes", "named"),
    [
        ({"job_memory_bytes": 16 * GIB}, {"worker": True}, "ZEROPOINT_JOB_MEMORY_BYTES"),
        ({"worker_slots": 64}, {"worker": True}, "ZEROPOINT_WORKER_SLOTS"),
        ({"gates": 16, "gate_memory_bytes": GIB}, {"api": True}, "ZEROPOINT_GATES"),
        ({"gates": 5, "gate_memory_bytes": GIB, "job_memory_bytes": 5 * GIB}, {"api": True, "worker": True}, "or"),
    ],
)
def test_what_was_set_is_kept_or_refused_with_the_numbers(
    settings: dict[str, int], processes: dict[str, bool], named: str
) -> None:
    plan = plan_memory(Settings.model_validate(settings), 8 * GIB, 4)
    with pytest.raises(TooMuchPromised, match=rf"in all, of the 8.0 GiB .* Lower .*{named}"):
        plan.check(**processes)
    for name, value in settings.items():
        kept = {"job_memory_bytes": plan.job_bytes, "gate_memory_bytes": plan.gate_bytes}.get(name, value)
        assert kept == value


@pytest.mark.parametrize(
    ("command", "setting"),
    [
        ("api", "ZEROPOINT_GATE_MEMORY_BYTES"),
        ("worker", "ZEROPOINT_JOB_MEMORY_BYTES"),
        ("serve", "ZEROPOINT_JOB_MEMORY_BYTES"),
    ],
)
def test_no_process_starts_that_promises_too_much(command: str, setting: str, tmp_path: Path) -> None:
    settings = {
        setting: str(2 * memory_bytes()),
        "ZEROPOINT_DATABASE_URL": f"sqlite:///{tmp_path}/zeropoint.db",
        "ZEROPOINT_STORAGE_URL": f"file:{tmp_path}/storage",
        "ZEROPOINT_SCRATCH_DIR": str(tmp_path / "scratch"),
        "ZEROPOINT_BROKER_URL": "redis://127.0.0.1:1/0",
    }
    options = {"serve": ["--data", str(tmp_path), "--port", str(free_port())]}.get(command, [])
    done = ended(command, settings, *options)
    assert done.returncode != 0
    assert "The settings promise more memory than there is" in done.stderr
    assert setting in done.stderr
    assert "Traceback" not in done.stderr.partition("The settings promise")[2]
