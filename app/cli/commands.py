"""The servers' command lines."""

import os
import shutil
import sys
import sysconfig
from pathlib import Path

import zeropoint

ROOT = Path(__file__).resolve().parents[2]


def api_command(host: str, port: int, listener: int | None = None) -> list[str]:
    """Return the API's command line; `listener` is an open file that listens there already.

    -P: nothing is looked for in the working directory, where a user may have an app.py.
    """
    options = ["--host", host, "--port", str(port), *(["--fd", str(listener)] if listener is not None else [])]
    return [sys.executable, "-P", "-m", "app.api.server", *options]


def worker_command(device: str, slots: int) -> list[str]:
    """Return the command line of a Celery worker that takes the jobs for one device, `slots` at a time."""
    options = ["--pool", "prefork", "--concurrency", str(slots), "--queues", device, "--hostname", f"{device}@%h"]
    options += ["--without-gossip", "--without-mingle"]
    return [sys.executable, "-P", "-m", "worker", *options]


def library_command(program: str, *arguments: str) -> list[str]:
    """Return the command line of a program of the library (`python -m zeropoint`)."""
    return [sys.executable, "-P", "-m", zeropoint.__name__, program, *arguments]


def redis_command() -> list[str] | None:
    """The redis-server that a wheel put beside this interpreter, or the system's; it reads its settings from stdin."""
    scripts = sysconfig.get_path("scripts")
    program = shutil.which("redis-server", path=f"{scripts}{os.pathsep}{os.defpath}")
    return [program, "-"] if program else None


def redis_settings(port: int, password: str, folder: Path) -> str:
    """Loopback only, behind a password, nothing on disk: a lost hint is sent again."""
    lines = ["bind 127.0.0.1", f"port {port}", f"requirepass {password}", f'dir "{folder}"']
    lines += ['save ""', "appendonly no", "maxmemory-policy noeviction", "daemonize no"]
    return "\n".join(lines) + "\n"


def with_root(environment: dict[str, str]) -> dict[str, str]:
    """The environment, with this project importable from any working directory."""
    paths = [str(ROOT), *filter(None, [environment.get("PYTHONPATH")])]
    return environment | {"PYTHONPATH": os.pathsep.join(paths)}
