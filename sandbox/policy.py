"""The policy for a child that reads an upload: limits, no privileges, few files, few system calls, no network.

`confine` is step 1, done by the child itself before it imports anything large; `lock_down` is step 2, done before
it opens the upload. docs/explanation/sandbox.md says what each layer holds and what not; `worker.self_test` tries them.
"""

import json
import logging
import os
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sandbox.confinement import landlock, limits, namespaces, privileges, seccomp
from sandbox.confinement.kernel import LayerOff
from sandbox.confinement.landlock import READ, READ_DIR, READ_FILE, RUN, USE_DEVICE, WORK, WRITE_FILE
from sandbox.programs import PROGRAMS

LAYERS = ("rlimits", "network_namespace", "privileges", "landlock", "signals", "seccomp")
"""In the order in which they are put on: a namespace needs privileges, a filter may forbid what comes before it."""

EXIT_UNCONFINED = 78
"""A required layer could not be put on: the child ends before it does anything else."""

log = logging.getLogger(__name__)


class Unconfined(Exception):
    """A required layer is off. The text is for operators."""


@dataclass(frozen=True)
class Sandbox:
    """What one child may use of the machine, and the layers that it requires."""

    memory_bytes: int = 16 * 2**30
    disk_bytes: int = 64 * 2**30
    cpu_seconds: int = 24 * 3600
    device: str = "cpu"
    required: tuple[str, ...] = ("landlock", "seccomp", "rlimits")
    layers: tuple[str, ...] = LAYERS
    reads: tuple[str, ...] = ()
    """Further files and folders to read from."""
    addresses_bytes: int | None = None
    """Limit on addresses, of which a library reserves more than it uses; None: `memory_bytes`."""
    compiler: tuple[str, ...] = ()
    """The programs of a C++ compiler, which a process may start that compiles (`LockDown.for_compiling`)."""

    @property
    def address_space_bytes(self) -> int | None:
        """Return the limit on addresses; None with CUDA, which reserves far more than it uses."""
        return None if self.device == "cuda" else self.addresses_bytes or self.memory_bytes


def command(program: str, sandbox: Sandbox, *arguments: str) -> list[str]:
    """Return the command line of a program of `programs`, to be started in the one folder that it may write to.

    -P: the folder holds uploads, so nothing in it may be imported.
    """
    words = [sys.executable, "-P", "-m", "sandbox.child", program, json.dumps(asdict(sandbox))]
    return [*words, *arguments]


def template_command(program: str) -> list[str]:
    """Return the command line of a template of a program."""
    return [sys.executable, "-P", "-m", "sandbox.template", program]


def import_path() -> str:
    """Return the folder that holds our packages, for the PYTHONPATH of a child: its working directory is no part."""
    return str(_CODE)


def parse(text: str) -> Sandbox:
    """Read the sandbox that `command` put into the command line."""
    fields: dict[str, Any] = json.loads(text)
    lists = ("required", "layers", "reads", "compiler")
    return Sandbox(**fields | {name: tuple(fields[name]) for name in lists if name in fields})


def confine(folder: Path, sandbox: Sandbox) -> list[str]:
    """Apply every layer that the machine offers (step 1) and return those. Raises Unconfined without a required one."""
    apply: dict[str, Callable[[], object]] = {
        "rlimits": lambda: limits.apply(sandbox.cpu_seconds, sandbox.disk_bytes, sandbox.address_space_bytes),
        "network_namespace": namespaces.leave_the_network,
        "privileges": privileges.drop,
        "landlock": lambda: landlock.restrict(_rules(folder, sandbox)),
        "signals": _check_signals,
        "seccomp": seccomp.confine,
    }
    on = []
    for layer in sandbox.layers:
        try:
            apply[layer]()
            on.append(layer)
        except LayerOff as off:
            log.warning("layer %s is off: %s", layer, off)
    _require(sandbox.required, on)
    return on


def lock_down(sandbox: Sandbox) -> None:
    """Keep this process from starting any program from now on (step 2). Raises Unconfined."""
    if "seccomp" not in sandbox.layers:
        return
    try:
        seccomp.lock_down()
    except LayerOff as off:
        log.warning("layer seccomp is off: %s", off)
        _require(sandbox.required, [layer for layer in sandbox.layers if layer != "seccomp"])


@dataclass(frozen=True)
class LockDown:
    """Step 2, as a program gets it: for most processes a call, for the one that compiles `for_compiling`."""

    sandbox: Sandbox

    def __call__(self) -> None:
        """Give up programs and processes (`lock_down`). Raises Unconfined."""
        lock_down(self.sandbox)

    @property
    def compiles(self) -> bool:
        """Whether there is a compiler that may be started."""
        return bool(self.sandbox.compiler)

    def for_compiling(self, folder: Path) -> None:
        """Keep the compiler alone of all programs, and this folder of all that can be written. Raises Unconfined."""
        on = [layer for layer in self.sandbox.layers if layer not in ("landlock", "seccomp")]
        steps: dict[str, Callable[[], object]] = {
            "landlock": lambda: landlock.restrict(_compiling_rules(folder, self.sandbox)),
            "seccomp": seccomp.keep_to_the_group,
        }
        for layer in [layer for layer in steps if layer in self.sandbox.layers]:
            try:
                steps[layer]()
                on.append(layer)
            except LayerOff as off:
                log.warning("layer %s is off: %s", layer, off)
        _require(self.sandbox.required, on)


def missing(required: Sequence[str], on: Sequence[str]) -> list[str]:
    """Return the required layers that are not on; an unknown name is never on."""
    return [layer for layer in required if layer not in on]


def _require(required: Sequence[str], on: Sequence[str]) -> None:
    if off := missing(required, on):
        raise Unconfined(f"the sandbox lacks what it must have: {', '.join(off)}")


def _check_signals() -> None:
    """Raise LayerOff when this kernel's Landlock does not restrict signals."""
    if landlock.abi() < landlock.SIGNALS_ABI:
        raise LayerOff(f"Landlock ABI {landlock.abi()} leaves signals open")


def _rules(folder: Path, sandbox: Sandbox) -> Iterator[landlock.Rule]:
    yield folder, WORK
    yield Path(os.path.realpath(sys.executable)), RUN
    yield from _anywhere(sandbox)


def _compiling_rules(folder: Path, sandbox: Sandbox) -> Iterator[landlock.Rule]:
    yield folder, WORK
    yield Path(os.curdir), READ
    yield from _anywhere(sandbox)


def _anywhere(sandbox: Sandbox) -> Iterator[landlock.Rule]:
    """Yield what every process of a job may read, and the programs that it may start until it gives them up."""
    yield from ((path, READ if path.is_dir() else READ_FILE) for path in map(Path, sandbox.reads))
    yield from ((Path(path), READ) for path in (*_PYTHON, *_LIBRARIES) if str(path) != "/")
    yield from ((Path(path), READ_FILE) for path in _FACTS)
    yield from ((Path(path), RUN) for path in (*_LOADERS, *sandbox.compiler))
    yield from ((Path(path), READ) for path in (_HEADERS if sandbox.compiler else ()))
    yield Path("/dev/null"), READ_FILE | WRITE_FILE
    # The import system lists the folder that our packages lie in, and may find our version there.
    yield _CODE, READ_DIR
    yield from ((path, READ) for path in (*(_CODE / name for name in _PACKAGES), *_CODE.glob("*.egg-info")))
    if sandbox.device == "cuda":
        yield from ((path, USE_DEVICE) for path in Path("/dev").glob("nvidia*"))
        yield from ((Path(path), READ) for path in _CUDA)


_CODE = Path(__file__).resolve().parents[1]
_PACKAGES = sorted({program.module.partition(".")[0] for program in PROGRAMS.values()})
_PYTHON = {
    *(sys.prefix, sys.base_prefix),
    *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
}
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share/zoneinfo")
_HEADERS = ("/usr/include", "/usr/local/include")
_LOADERS = ("/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1")
_FACTS = (
    *("/etc/ld.so.cache", "/etc/localtime", "/dev/urandom", "/dev/random", "/dev/zero"),
    *("/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/sys/vm/overcommit_memory", "/sys/devices/system"),
)
_CUDA = (
    *("/usr/local/cuda", "/usr/share/nvidia", "/etc/nvidia", "/proc/driver/nvidia", "/proc/driver/nvidia-uvm"),
    *("/proc/devices", "/proc/modules", "/proc/self", "/sys/bus/pci", "/sys/devices", "/sys/module/nvidia"),
)
