"""Accounts on the command line, and where the API refuses to listen without them."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from app.cli import main
from app.database import migrate
from app.settings import Settings, WrongSettings, require_accounts
from tests.servers import ROOT, api_process, free_port

HERE = ("127.0.0.1", "::1", "localhost", "127.8.8.8")
ELSEWHERE = ("0.0.0.0", "::", "10.0.0.5", "example.org", "", "::ffff:10.0.0.1")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    migrate(Settings(database_url=f"sqlite:///{tmp_path}/zeropoint.db"))
    return tmp_path


def command(*words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ZEROPOINT_")}
    program = [sys.executable, "-m", "app.cli", *words]
    return subprocess.run(
        program, cwd=ROOT, env={**clean, **environment}, capture_output=True, text=True, timeout=120, check=False
    )


def test_without_accounts_an_api_listens_to_its_own_machine_alone() -> None:
    for host in HERE:
        require_accounts(Settings(), host)
    for host in ELSEWHERE:
        with pytest.raises(WrongSettings, match="ZEROPOINT_AUTH=on"):
            require_accounts(Settings(), host)
        require_accounts(Settings(auth="on"), host)
        require_accounts(Settings(auth="off-everywhere"), host)


@pytest.mark.parametrize("program", ["api", "serve"])
def test_it_says_so_and_does_not_start(program: str, tmp_path: Path) -> None:
    words = ["--data", str(tmp_path)] if program == "serve" else []
    storage = {"ZEROPOINT_STORAGE_URL": f"file:{tmp_path}"}
    done = command(program, "--host", "0.0.0.0", "--port", str(free_port()), *words, **storage)
    assert done.returncode != 0
    assert "accounts are off" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_first_key_is_made_on_the_command_line_and_works(data: Path) -> None:
    refused = command("keys", "create", "--project", "vision", "--role", "admin", "--data", str(data))
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "zeropoint projects create" in refused.stderr
    assert command("projects", "create", "vision", "--data", str(data)).returncode == 0
    made = command("keys", "create", "--project", "vision", "--role", "admin", "--days", "1", "--data", str(data))
    secret = made.stdout.strip()
    assert secret.startswith("zp_")
    database = {"ZEROPOINT_DATABASE_URL": f"sqlite:///{data}/zeropoint.db"}
    settings = {**database, "ZEROPOINT_STORAGE_URL": f"file:{data}/storage", "ZEROPOINT_AUTH": "on"}
    with api_process({**os.environ, **settings}, data / "api.log") as (_, url):
        auth = {"Authorization": f"Bearer {secret}"}
        (key,) = httpx.get(f"{url}/v1/keys", headers=auth).json()["items"]
        trail = httpx.get(f"{url}/v1/audit", headers=auth).json()["items"]
        done = [(one["action"], one["actor"]) for one in trail]
        assert done == [("key.created", "command line"), ("project.created", "command line")]
        listed = command("keys", "list", "--project", "vision", **database).stdout
        assert key["id"] in listed
        assert secret not in listed
        assert command("keys", "revoke", key["id"], "--project", "vision", **database).returncode == 0
        assert httpx.get(f"{url}/v1/keys", headers=auth).status_code == 401
    assert secret not in (data / "api.log").read_text()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["projects", "create", "default"], "There is a project default"),
        (["projects", "create", "No Name"], "can't be the name of a project"),
        (["keys", "revoke", "key_0"], "There is no key key_0"),
        (["keys", "list", "--project", "nobodys"], "There is no project nobodys"),
        (["projects", "limit", "nobodys", "--jobs", "1"], "There is no project nobodys"),
        (["projects", "limit", "default", "--jobs", "2000000"], "Use a number from 0 to 1000000"),
    ],
)
def test_what_can_not_be_done_is_said(data: Path, words: list[str], code: str) -> None:
    done = command(*words, "--data", str(data))
    assert done.returncode == 1
    assert code in done.stderr
    assert "Traceback" not in done.stderr


def test_own_quotas_are_told_as_the_list_tells_them(data: Path) -> None:
    said = command("projects", "limit", "default", "--jobs", "3", "--bytes", "9", "--data", str(data)).stdout
    assert said == "default: bytes=9 jobs=3\n"
    assert command("projects", "list", "--data", str(data)).stdout.endswith(" bytes=9 jobs=3\n")


@pytest.mark.parametrize(
    "words",
    [
        ["keys", "create", "--role", "admin", "--days", "-1"],
        ["keys", "create", "--role", "admin", "--days", "0"],
        ["keys", "create", "--role", "admin", "--days", "9" * 12],
        ["keys", "create", "--role", "admin", "--name", ""],
        ["keys", "create", "--role", "admin", "--name", "two\nlines"],
        ["keys", "create", "--role", "admin", "--name", "x" * 256],
        ["keys", "rotate", "key_0", "--overlap-seconds", "-1"],
        ["keys", "rotate", "key_0", "--overlap-seconds", "9" * 15],
        ["projects", "limit", "default", "--bytes", "1e9"],
    ],
    ids=lambda words: " ".join(words)[:40],
)
def test_a_value_that_can_not_be_is_refused_by_its_name(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert re.search(r"argument --\S+: must be", capsys.readouterr().err)


@pytest.mark.parametrize("where", ["nowhere", "a file", "empty"])
def test_a_folder_without_a_database_is_named_and_stays_as_it_is(tmp_path: Path, where: str) -> None:
    (tmp_path / "a file").touch()
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    done = command("projects", "list", "--data", str(tmp_path / where))
    assert (done.returncode, done.stdout) == (1, "")
    assert "There is no database" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_an_open_file_that_listens_elsewhere_needs_accounts_too(tmp_path: Path) -> None:
    with socket.create_server(("0.0.0.0", 0)) as listener:
        program = [sys.executable, "-m", "app.api.server", "--fd", str(listener.fileno())]
        done = subprocess.run(
            program,
            cwd=ROOT,
            env={**os.environ, "ZEROPOINT_STORAGE_URL": f"file:{tmp_path}"},
            pass_fds=[listener.fileno()],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode != 0
    assert "accounts are off" in done.stderr


def test_a_database_without_tables_is_named(tmp_path: Path) -> None:
    (tmp_path / "zeropoint.db").touch()
    done = command("projects", "list", "--data", str(tmp_path))
    assert done.returncode == 1
    assert "zeropoint migrate" in done.stderr
