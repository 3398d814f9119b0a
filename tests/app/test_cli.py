"""Commands that lack what they need: each ends with the reason, in words, and with an exit code that says so."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest

from app.cli import main
from app.cli.children import ServerError
from app.cli.commands import api_command, with_root
from app.cli.serve import _listen
from app.database import migrate
from app.settings import Settings
from tests.servers import ROOT, free_port

COMMANDS = {"api": ["--port", "1"], "worker": [], "migrate": [], "serve": ["--port", "1"]}
AWAY = f"postgresql://zeropoint:secret@127.0.0.1:{free_port()}/zeropoint"


def ended(command: str, settings: Mapping[str, str], *options: str) -> "subprocess.CompletedProcess[str]":
    """A command that ends by itself."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ZEROPOINT_")}
    words = [sys.executable, "-m", "app.cli", command, *COMMANDS[command], *options]
    return subprocess.run(
        words, cwd=ROOT, env={**clean, **settings}, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_setting_is_named_and_its_value_kept(command: str, tmp_path: Path) -> None:
    wrong = {"ZEROPOINT_LEASE_SECONDS": "secret", "ZEROPOINT_WORKER_DEVICE": "tpu", "ZEROPOINT_BROKER_URLS": "secret"}
    done = ended(command, wrong, *(["--data", str(tmp_path)] if command == "serve" else []))
    assert done.returncode == 1
    assert "ZEROPOINT_LEASE_SECONDS must be a number." in done.stderr
    assert "ZEROPOINT_WORKER_DEVICE must be 'cpu' or 'cuda'." in done.stderr
    assert "ZEROPOINT_BROKER_URLS is not a setting (near: ZEROPOINT_BROKER_URL" in done.stderr
    assert "secret" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["migrate", "serve"])
@pytest.mark.parametrize("database", ["away", "newer"])
def test_a_database_that_can_not_be_migrated_is_an_error(command: str, database: str, tmp_path: Path) -> None:
    url = AWAY if database == "away" else f"sqlite:///{tmp_path}/zeropoint.db"
    if database == "newer":
        migrate(Settings(database_url=url))
        with sqlite3.connect(tmp_path / "zeropoint.db") as connection:
            connection.execute("UPDATE alembic_version SET version_num = 'from_the_future'")
        connection.close()
    options = ["--data", str(tmp_path)] if command == "serve" else []
    settings = {"ZEROPOINT_DATABASE_URL": url}
    done = ended(command, settings, *([*options, "--port", str(free_port())] if command == "serve" else options))
    assert done.returncode == 1
    assert "can't be brought to the newest schema" in done.stderr
    assert "secret" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("url", "said"),
    [("file:/proc/no", "The API does not start: "), ("nfs:/there", "ZEROPOINT_STORAGE_URL must be file: and a folder")],
)
def test_an_api_without_a_storage_says_so(url: str, said: str, tmp_path: Path) -> None:
    done = ended("api", {"ZEROPOINT_STORAGE_URL": url, "ZEROPOINT_DATABASE_URL": f"sqlite:///{tmp_path}/zeropoint.db"})
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["serve", "--port", "65536"],
        ["api", "--port", "0"],
        ["worker", "--concurrency", "0"],
        ["keys", "create", "--role", "admin", "--days", "-1"],
        ["keys", "create", "--role", "admin", "--days", "99999999"],
        ["keys", "rotate", "key_0", "--overlap-seconds", "-1"],
        ["projects", "limit", "vision", "--jobs", "-1"],
        ["projects", "limit", "vision", "--bytes", "ten"],
        ["projects", "limit", "vision", "--requests-a-second", "0"],
    ],
)
def test_a_number_is_refused_with_its_bounds(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert f"{words[-2]}: must be a whole number from " in capsys.readouterr().err


def test_the_port_is_held_from_before_the_api_starts(tmp_path: Path) -> None:
    """Else another program could take it meanwhile, and answer that all is well."""
    with _listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ServerError, match="already in use"):
            _listen("0.0.0.0", port)
        process = subprocess.Popen(
            api_command("127.0.0.1", port, listener.fileno()),
            cwd=ROOT,
            env=with_root({"ZEROPOINT_DATABASE_URL": "sqlite://", "ZEROPOINT_STORAGE_URL": f"file:{tmp_path}"}),
            pass_fds=[listener.fileno()],
        )
    try:
        assert httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=60, trust_env=False).json() == {"status": "ok"}
    finally:
        process.terminate()
        process.wait(60)
