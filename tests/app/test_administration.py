"""`zeropoint jobs`, `gc`, `backup`, `restore` and `doctor`, as an operator runs them."""

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.accounts import keys, projects
from app.accounts.caller import Role
from app.accounts.models import AuditEntry
from app.cli import doctor, main
from app.cli.doctor import Finding
from app.database import connected, migrate
from app.jobs import workers
from app.settings import Settings
from app.storage import open_storage
from tests.app.jobs.test_retention import put
from tests.app.test_accounts import command
from tests.factories import add_job


@pytest.fixture
def data(tmp_path: Path) -> Path:
    migrate(of_folder(tmp_path))
    return tmp_path


def of_folder(data: Path) -> Settings:
    return Settings(
        database_url=f"sqlite:///{data}/zeropoint.db", storage_url=f"file:{data}/storage", scratch_dir=data / "scratch"
    )


def ran(capsys: pytest.CaptureFixture[str], data: Path, *words: str) -> tuple[int, str]:
    """Run a command in this process; return its exit code and what it printed."""
    code = main([*words, "--data", str(data)])
    printed = capsys.readouterr()
    return code, printed.out + printed.err


def test_jobs_of_every_project_are_listed_and_changed(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with connected(of_folder(data)) as sessions, sessions() as session:
        projects.create(session, "vision")
        ours, theirs = add_job(session).id, add_job(session, project="vision").id
    code, listed = ran(capsys, data, "jobs", "list")
    assert (code, [line.split()[:3] for line in listed.splitlines()]) == (
        0,
        [[theirs, "vision", "queued"], [ours, "default", "queued"]],
    )
    assert theirs not in ran(capsys, data, "jobs", "list", "--project", "default")[1]
    assert ran(capsys, data, "jobs", "list", "--state", "failed") == (0, "")
    assert "There is no state nosuch" in ran(capsys, data, "jobs", "list", "--state", "nosuch")[1]
    assert json.loads(ran(capsys, data, "jobs", "show", theirs)[1])["id"] == theirs
    assert "job_active" not in (refused := ran(capsys, data, "jobs", "delete", theirs)[1])
    assert f"The job {theirs} is queued" in refused
    assert ran(capsys, data, "jobs", "cancel", theirs, ours) == (
        0,
        f"{theirs} is cancelled\n{ours} is cancelled\n",
    )
    code, words = ran(capsys, data, "jobs", "retry", theirs, "job_0")
    again = words.split()[0]
    assert (code, "There is no job job_0" in words) == (1, True)
    assert ran(capsys, data, "jobs", "delete", theirs)[0] == 0
    assert ran(capsys, data, "jobs", "show", theirs)[0] == 1
    with connected(of_folder(data)) as sessions, sessions() as session:
        query = select(AuditEntry.project, AuditEntry.actor, AuditEntry.action).order_by(AuditEntry.seq)
        done = [tuple(row) for row in session.execute(query) if row.actor == "command line"]
    assert done == [
        ("vision", "command line", "quantize.cancelled"),
        ("default", "command line", "quantize.cancelled"),
        ("vision", "command line", "quantize.submitted"),
        ("vision", "command line", "quantize.deleted"),
    ]
    assert json.loads(ran(capsys, data, "jobs", "show", again)[1])["retry_of"] == theirs


def test_garbage_is_removed_now_and_counted(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(open_storage(of_folder(data)), b"nobody's")
    assert ran(capsys, data, "gc") == (0, "removed 0 jobs, 1 blobs (8 bytes), 0 uploads\n")
    assert ran(capsys, data, "gc") == (0, "removed 0 jobs, 0 blobs (0 bytes), 0 uploads\n")


def test_a_copy_is_made_and_brought_back(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy, other = tmp_path / "copy", tmp_path / "other"
    assert ran(capsys, data, "backup", str(copy))[0] == 0
    assert ran(capsys, data, "backup", str(copy))[0] == 1
    code, words = ran(capsys, other, "restore", str(copy))
    assert (code, "brought back the database and 0 blobs" in words) == (0, True), words
    assert ran(capsys, other, "jobs", "list") == (0, "")
    assert "has tables already" in ran(capsys, data, "restore", str(copy))[1]


def by_part(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.part: finding for finding in findings}


PARTS = {"versions", "sandbox", "memory", "disk scratch", "disk blobs", "storage", "broker", "database"}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_doctor_says_what_holds(settings: Settings, session: Session) -> None:
    found = by_part(doctor.examine(settings))
    assert found.keys() == PARTS | {"migrations", "clock", "worker", "accounts"}
    assert found["worker"].holds is False
    assert "zeropoint worker" in found["worker"].remedy
    assert found["accounts"].holds is None
    for part in ("versions", "storage", "broker", "database", "migrations", "clock"):
        assert found[part].holds is not False, found[part]
    workers.announce_worker(session, "w", "cpu", {})
    found = by_part(doctor.examine(settings.model_copy(update={"auth": "on"})))
    assert found["worker"].holds is True
    assert found["accounts"].holds is False
    keys.create(session, "default", "k", Role.READER)
    assert by_part(doctor.examine(settings.model_copy(update={"auth": "on"})))["accounts"].holds is True


WRONG: list[tuple[str, dict[str, Any]]] = [
    ("broker", {"broker_url": "redis://127.0.0.1:1/0"}),
    ("storage", {"storage_url": "file:/proc/no"}),
    ("database", {"database_url": "postgresql://nobody:secret@127.0.0.1:1/none"}),
    ("memory", {"job_memory_bytes": 2**50}),
    ("sandbox", {"sandbox_require": "landlock,nosuchlayer"}),
]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_doctor_says_what_does_not_hold_and_what_to_do(settings: Settings) -> None:
    found = by_part(doctor.examine(settings.model_copy(update={k: v for _, one in WRONG for k, v in one.items()})))
    for part, _ in WRONG:
        assert found[part].holds is False, found[part]
        assert found[part].remedy
    assert not [finding for finding in found.values() if "secret" in str(finding)]


def test_the_doctor_ends_with_a_code_and_speaks_json(tmp_path: Path) -> None:
    done = command("doctor", "--json", "--data", str(tmp_path))
    found = {entry["part"]: entry["holds"] for entry in json.loads(done.stdout)}
    assert (done.returncode, found["migrations"], found["broker"]) == (1, False, None)
    assert "Traceback" not in done.stderr
