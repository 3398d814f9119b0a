"""Finds out which layers of the sandbox hold on this machine: a real child tries to break each of them."""

import json
import os
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from app.memory import plan_memory
from app.settings import Settings, get_settings
from sandbox import compiler
from sandbox.policy import Sandbox, command, missing
from sandbox.probe import TASK_FILE
from worker.child.process import environment

ACTS: Mapping[str, tuple[str, ...]] = {
    "rlimits": ("outgrow_the_file_limit", "raise_a_limit"),
    "network_namespace": ("share_the_network",),
    "privileges": ("hold_a_privilege",),
    "landlock": ("read_elsewhere", "list_elsewhere", "write_elsewhere", "start_another_program"),
    "signals": ("signal_the_worker",),
    "seccomp": (
        *("connect", "open_a_unix_socket", "change_a_mode_elsewhere", "limit_the_worker"),
        *("fork", "make_a_namespace", "start_a_program"),
    ),
}
"""Layer -> what it alone must prevent."""

SECONDS = 45.0
"""For the probe, which takes one or two; `zeropoint serve` waits longer for its worker."""


def sandbox_of(settings: Settings) -> Sandbox:
    """Return the sandbox that the settings ask for."""
    return Sandbox(
        memory_bytes=plan_memory(settings).job_bytes,
        addresses_bytes=settings.job_memory_bytes,
        disk_bytes=settings.job_disk_bytes,
        # all cores together: the wall-clock limit is reached first, unless the worker that keeps it is gone
        cpu_seconds=settings.job_seconds * (os.cpu_count() or 1),
        device=settings.worker_device,
        compiler=compiler.programs() if settings.compile_seconds else (),
        required=tuple(name.strip() for name in settings.sandbox_require.split(",") if name.strip()),
    )


def held_or_refuse(sandbox: Sandbox, seconds: float = SECONDS) -> dict[str, bool]:
    """Return which layers of the sandbox hold.

    Raises SystemExit, with what to do, when a required one does not, or when that can't be told.
    """
    try:
        layers = self_test(sandbox, seconds)
    except (subprocess.SubprocessError, OSError, LookupError, TypeError, ValueError) as error:
        raise SystemExit(
            f"This worker does not start: its sandbox could not be tested. {_why(error)} Start it again; if it ends so"
            " again, docs/explanation/sandbox.md says what each layer needs."
        ) from error
    if off := missing(sandbox.required, [layer for layer, holds in layers.items() if holds]):
        state = ", ".join(f"{layer} {'on' if holds else 'off'}" for layer, holds in layers.items())
        raise SystemExit(
            f"This worker does not start: its sandbox lacks {', '.join(off)} ({state}). Jobs open files that strangers"
            " made. docs/explanation/sandbox.md has what each needs; ZEROPOINT_SANDBOX_REQUIRE lists the required ones."
        )
    return layers


def self_test(sandbox: Sandbox, seconds: float = SECONDS) -> dict[str, bool]:
    """Return for each layer whether it prevented all that it must. Raises what `attempts` does."""
    worked = attempts(sandbox, seconds)
    return {layer: not any(worked.get(act, True) for act in acts) for layer, acts in ACTS.items()}


def attempts(sandbox: Sandbox, seconds: float = SECONDS) -> dict[str, bool]:
    """Return for each act whether it worked in a child with this sandbox; what is not said to have failed did.

    Raises SubprocessError when the child does not end well in time, OSError, and LookupError, TypeError or ValueError
    for what is no answer.
    """
    with (
        tempfile.TemporaryDirectory(prefix="zeropoint-self-test-") as name,
        socket.create_server(("127.0.0.1", 0)) as server,
    ):
        folder, elsewhere = Path(name).resolve() / "inside", Path(name).resolve() / "elsewhere"
        for made in (folder, elsewhere):
            made.mkdir(mode=0o700)
        (elsewhere / "secret").touch()
        task = {
            "elsewhere": str(elsewhere),
            "port": server.getsockname()[1],
            "network": os.readlink("/proc/self/ns/net"),
        }
        (folder / TASK_FILE).write_text(json.dumps(task))
        output = subprocess.run(
            # a layer that is off must be seen here, and not end the probe before it begins
            command("probe", replace(sandbox, required=())),
            cwd=folder,
            env=environment(folder),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            check=True,
        ).stdout
    return {line["act"]: line["worked"] is not False for line in map(json.loads, output.splitlines())}


def _why(error: Exception) -> str:
    match error:
        case subprocess.TimeoutExpired():
            return f"The probe did not end within {error.timeout:g} s."
        case subprocess.CalledProcessError():
            words = error.stderr.decode(errors="replace")[-1000:].strip()
            return f"The probe ended with {error.returncode}{words and f': {words}'}."
        case _:
            return f"{type(error).__name__}: {error}."


if __name__ == "__main__":
    print(json.dumps(self_test(sandbox_of(get_settings()))))  # noqa: T201 - for `zeropoint doctor`
