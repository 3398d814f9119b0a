"""Tries, inside the sandbox, what must not work there, and reports whether it worked. It reads no upload.

One JSON line an act, {"act": "read_elsewhere", "worked": false}; `self_test` says what they mean.
"""

import json
import os
import resource
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from sandbox.confinement import kernel, namespaces, privileges

TASK_FILE = "probe.json"


def main(lock_down: Callable[[], None]) -> int:
    """Try everything that probe.json in the working directory gives a target for; return 0.

    Starting a program comes last: it may succeed.
    """
    folder = Path.cwd()
    task = json.loads((folder / TASK_FILE).read_text())
    elsewhere = Path(task["elsewhere"])
    _try("raise_a_limit", _raise_a_limit)
    _try("outgrow_the_file_limit", lambda: _outgrow(folder / "large"))
    _try("share_the_network", lambda: _must_equal(os.readlink("/proc/self/ns/net"), task["network"]))
    _try("hold_a_privilege", lambda: _must_equal(privileges.held(), True))
    _try("read_elsewhere", (elsewhere / "secret").read_bytes)
    _try("list_elsewhere", lambda: os.listdir(elsewhere))
    _try("write_elsewhere", (elsewhere / "written").touch)
    _try("start_another_program", lambda: _wait(os.posix_spawn("/bin/true", ["true"], {})))
    _try("signal_the_worker", lambda: os.kill(os.getppid(), 0))
    _try("connect", lambda: socket.create_connection(("127.0.0.1", task["port"])).close())
    _try("open_a_unix_socket", lambda: socket.socket(socket.AF_UNIX).close())
    _try("change_a_mode_elsewhere", lambda: (elsewhere / "secret").chmod(0o644))
    _try("limit_the_worker", lambda: resource.prlimit(os.getppid(), resource.RLIMIT_CORE))
    lock_down()
    _try("fork", _fork)
    _try("make_a_namespace", _make_a_namespace)
    _report("start_a_program", worked=False)
    _try("start_a_program", _become_another)
    return 0


def _try(act: str, do: Callable[[], object]) -> None:
    try:
        do()
    except (OSError, ValueError):  # setrlimit says EPERM in its own way
        _report(act, worked=False)
    else:
        _report(act, worked=True)


def _report(act: str, *, worked: bool) -> None:
    sys.stdout.write(json.dumps({"act": act, "worked": worked}) + "\n")
    sys.stdout.flush()


def _must_equal(actual: object, expected: object) -> None:
    if actual != expected:
        raise OSError(f"{actual} is not {expected}")


def _raise_a_limit() -> None:
    for kind in (resource.RLIMIT_CORE, resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_CPU):
        if resource.getrlimit(kind)[1] == resource.RLIM_INFINITY:
            return  # there is none to raise
    resource.setrlimit(resource.RLIMIT_CORE, (1, 1))


def _outgrow(path: Path) -> None:
    """Make a file larger than the limit; a hole takes no room on disk, but counts."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    with path.open("wb") as file:
        file.truncate(1 if limit == resource.RLIM_INFINITY else limit + 1)


def _wait(pid: int) -> None:
    _must_equal(os.waitpid(pid, 0)[1], 0)


def _fork() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    _wait(pid)


def _make_a_namespace() -> None:
    kernel.call(kernel.number("unshare") or -1, namespaces.CLONE_NEWUSER)


def _become_another() -> None:
    sys.stdout.flush()
    line = json.dumps({"act": "start_a_program", "worked": True})
    os.execv(sys.executable, [sys.executable, "-I", "-S", "-c", f"print({line!r})"])
