"""The sandbox, by breaking out of it: each act is refused inside and works outside, else a refusal means nothing."""

import signal
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from sandbox.compiler import programs
from sandbox.policy import EXIT_UNCONFINED, LAYERS, Sandbox, Unconfined, command, confine, missing, parse
from worker.child.process import started
from worker.self_test import ACTS, attempts, held_or_refuse, self_test

NAMESPACES = 0x50000000  # CLONE_NEWUSER | CLONE_NEWNET
BARE = Sandbox(layers=(), required=())
ALONE: dict[str, tuple[str, ...]] = {
    # An ordinary user may put on a filter or a Landlock domain only once it can gain nothing any more.
    **{layer: ("privileges", layer) for layer in LAYERS},
    "network_namespace": ("network_namespace",),
    "signals": ("privileges", "landlock", "signals"),
}


@cache
def attempted(layers: tuple[str, ...]) -> dict[str, bool]:
    return attempts(Sandbox(layers=layers))


def namespaces_are_allowed() -> bool:
    program = f"import ctypes, sys; sys.exit(ctypes.CDLL(None).unshare({NAMESPACES}) != 0)"
    return subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def skip_if_forbidden(layer: str) -> None:
    if layer == "network_namespace" and not namespaces_are_allowed():
        pytest.skip("this machine lets nobody make a network namespace")


@pytest.mark.parametrize(("layer", "act"), [(layer, act) for layer, acts in ACTS.items() for act in acts])
def test_what_the_self_test_tries_works_outside_alone(layer: str, act: str) -> None:
    skip_if_forbidden(layer)
    assert attempted(())[act]
    assert not attempted(LAYERS)[act]


@pytest.mark.parametrize(("layer", "act"), [(layer, act) for layer, acts in ACTS.items() for act in acts])
def test_a_layer_needs_no_other_to_refuse_it(layer: str, act: str) -> None:
    skip_if_forbidden(layer)
    assert not attempted(ALONE[layer])[act]


@pytest.mark.parametrize("layer", ["rlimits", "landlock", "seccomp", "privileges"])
def test_the_self_test_sees_that_a_layer_is_off(layer: str) -> None:
    others = tuple(name for name in LAYERS if name != layer)
    found = self_test(Sandbox(layers=others))
    assert not found[layer]


PRELUDE = """
import os, resource, signal, socket, subprocess, sys, threading
from pathlib import Path
from sandbox.confinement.kernel import call, number
from sandbox.policy import confine, lock_down, parse
folder = Path(os.getcwd())
sandbox = parse(sys.argv[1])
confine(folder, sandbox)
"""
LOCKED = "lock_down(sandbox)\n"


def run(program: str, folder: Path, sandbox: Sandbox, step_2: str = LOCKED) -> tuple[int, str]:
    """A program in a child as the worker starts it: exit code, and the end of what it said on standard error."""
    with started([sys.executable, "-c", PRELUDE + step_2 + program, command("probe", sandbox)[-1]], folder) as child:
        while not child.ended:
            child.read(0.1)
        code = child.stop()
        child.read(0)
        return code, child.last_words


REFUSED = {
    "read_passwd": "open('/etc/passwd')",
    "read_the_workers_environment": "open(f'/proc/{os.getppid()}/environ').read()",
    "read_the_workers_memory": "open(f'/proc/{os.getppid()}/mem', 'rb')",
    "list_other_processes": "os.listdir('/proc')",
    "make_a_link": "os.symlink('/etc/passwd', folder / 'link')",
    "make_a_pipe": "os.mkfifo(folder / 'pipe')",
    "make_a_hard_link": "os.link(sys.executable, folder / 'link')",
    "write_outside": "(folder.parent / 'outside').touch()",
    "connect": "socket.create_connection(('127.0.0.1', 1))",
    "make_a_socket_pair": "socket.socketpair()",
    "leave_the_group": "os.setpgid(0, 0)",
    "outlive_the_worker": "call(number('prctl'), 1, 0, 0, 0, 0)",
    "share_memory": "os.memfd_create('x')",
    "make_its_folder_readable": "folder.chmod(0o755)",
    "turn_back_the_clock_of_a_file": "os.utime(folder)",
    "start_a_compiler": "subprocess.run(['g++', '--version'])",
    "start_python": "subprocess.run([sys.executable, '--version'])",
}
NEVER_OUTSIDE = {"connect", "start_a_compiler", "leave_the_group"}
"""Nobody listens on that port, a compiler may be missing, a leader can't leave: the self-test's acts cover them."""


@pytest.mark.parametrize("act", REFUSED)
def test_an_act_is_refused_as_a_permission_error(act: str, tmp_path: Path) -> None:
    code, words = run(REFUSED[act], make(tmp_path), Sandbox())
    assert code == 1
    assert words.splitlines()[-1].startswith("PermissionError"), words


needs_compiler = pytest.mark.skipif(not programs(), reason="this machine has no g++")


@needs_compiler
@pytest.mark.parametrize("act", ["start_a_compiler", "start_python", "read_passwd", "write_outside"])
def test_where_a_compiler_is_there_other_processes_may_do_no_more(act: str, tmp_path: Path) -> None:
    code, words = run(REFUSED[act], make(tmp_path), Sandbox(compiler=programs()))
    assert code == 1
    assert words.splitlines()[-1].startswith("PermissionError"), words


COMPILING = """
from sandbox.policy import LockDown
(folder / 'work').mkdir()
(folder / 'work' / 'a.cpp').write_text('extern "C" int f() { return 7; } int main() { return 0; }')
LockDown(sandbox).for_compiling(folder / 'work')
os.environ['TMPDIR'] = str(folder / 'work')
"""
BUILD = "subprocess.run(['g++', '-shared', '-fPIC', 'work/a.cpp', '-o', 'work/a.so'], check=True)"
REFUSED_WHEN_COMPILING = {act: code for act, code in REFUSED.items() if act != "start_a_compiler"} | {
    "write_beside_its_folder": "(folder / 'other').touch()",
    "write_by_the_compiler": "_denied(['g++', '-shared', 'work/a.cpp', '-o', 'a.so'], 'a.so')",
    "read_by_the_compiler": "_denied(['g++', '-include', '/etc/passwd', 'work/a.cpp', '-o', 'work/b'], '/etc/passwd')",
    "start_what_it_compiled": "subprocess.run(['g++', 'work/a.cpp', '-o', 'work/a'], check=True)\n"
    "subprocess.run(['work/a'])",
    "start_a_shell": "subprocess.run('true', shell=True, check=True)",
}
DENIED = """
def _denied(command, name):
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode, 'it worked'
    if f'{name}: Permission denied' in result.stderr or f'{name}: Operation not permitted' in result.stderr:
        raise PermissionError(name)
    raise AssertionError(result.stderr)
"""


@needs_compiler
@pytest.mark.sampled(3)
@pytest.mark.parametrize("act", REFUSED_WHEN_COMPILING)
def test_an_act_is_refused_to_what_compiles(act: str, tmp_path: Path) -> None:
    sandbox = Sandbox(compiler=programs())
    code, words = run(COMPILING + DENIED + REFUSED_WHEN_COMPILING[act], make(tmp_path), sandbox, "")
    assert code == 1
    assert words.splitlines()[-1].startswith("PermissionError"), words


@needs_compiler
def test_what_compiles_may_compile_and_load(tmp_path: Path) -> None:
    load = "import ctypes; assert ctypes.CDLL(str(folder / 'work' / 'a.so')).f() == 7"
    code, words = run(f"{COMPILING}{BUILD}\n{load}", make(tmp_path), Sandbox(compiler=programs()), "")
    assert code == 0, words


@pytest.mark.parametrize("act", sorted(set(REFUSED) - NEVER_OUTSIDE))
def test_the_same_act_works_without_the_sandbox(act: str, tmp_path: Path) -> None:
    code, words = run(REFUSED[act], make(tmp_path), BARE)
    assert code == 0, words


def make(tmp_path: Path) -> Path:
    folder = tmp_path / "job"
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    "program",
    [
        "t = threading.Thread(target=print); t.start(); t.join()",
        "(folder / 'out').mkdir(); (folder / 'out' / 'a').write_text('a'); (folder / 'out' / 'a').rename(folder / 'b')",
        "import json.tool, decimal",
    ],
    ids=["threads", "files", "imports"],
)
def test_what_a_job_needs_works_inside(program: str, tmp_path: Path) -> None:
    code, words = run(program, tmp_path, Sandbox())
    assert code == 0, words


def test_looking_into_another_process_ends_a_child_with_sigsys(tmp_path: Path) -> None:
    trace = "call(number('ptrace'), 0, 0, 0, 0)"
    assert run(trace, tmp_path, BARE)[0] == 0
    assert run(trace, tmp_path, Sandbox())[0] == -signal.SIGSYS


def test_memory_over_the_limit_is_a_memory_error(tmp_path: Path) -> None:
    take = "bytearray(2 << 30)"
    assert run(take, tmp_path, Sandbox())[0] == 0
    _, words = run(take, tmp_path, Sandbox(memory_bytes=1 << 30))
    assert words.splitlines()[-1] == "MemoryError"


def test_cuda_may_reserve_addresses_without_a_limit() -> None:
    assert Sandbox(device="cuda").address_space_bytes is None


def test_processor_time_over_the_limit_ends_a_child_with_sigxcpu(tmp_path: Path) -> None:
    code, _ = run("while True: pass", tmp_path, Sandbox(cpu_seconds=1))
    assert code == -signal.SIGXCPU


def test_a_file_over_the_limit_is_an_error(tmp_path: Path) -> None:
    write = "(folder / 'large').write_bytes(bytes(2 << 20))"
    assert run(write, tmp_path, Sandbox())[0] == 0
    _, words = run(write, tmp_path, Sandbox(disk_bytes=1 << 20))
    assert "File too large" in words


def test_files_of_a_job_are_its_users_alone(tmp_path: Path) -> None:
    run("(folder / 'made').touch()", tmp_path, Sandbox())
    assert (tmp_path / "made").stat().st_mode & 0o077 == 0


def test_a_child_that_lacks_a_required_layer_does_nothing(tmp_path: Path) -> None:
    with started(command("job", Sandbox(required=("moat",))), tmp_path) as child:
        while not child.ended:
            assert child.read(1) == []
        assert child.stop() == EXIT_UNCONFINED
    assert not (tmp_path / "out").exists()


def test_an_unknown_layer_is_never_on(tmp_path: Path) -> None:
    with pytest.raises(Unconfined, match="moat"):
        confine(tmp_path, Sandbox(layers=(), required=("moat",)))
    assert missing(("landlock", "moat"), ("landlock",)) == ["moat"]


def test_a_worker_refuses_what_it_can_not_hold() -> None:
    with pytest.raises(SystemExit, match=r"lacks moat \(rlimits on"):
        held_or_refuse(Sandbox(required=("landlock", "moat")))


@pytest.mark.parametrize("sandbox", [Sandbox(), Sandbox(device="cuda", layers=("seccomp",), required=())])
def test_a_sandbox_reaches_the_child_unchanged(sandbox: Sandbox) -> None:
    assert parse(command("probe", sandbox)[-1]) == sandbox


def test_a_probe_that_does_not_answer_in_time_proves_nothing() -> None:
    with pytest.raises(SystemExit, match="The probe did not end within 0"):
        held_or_refuse(Sandbox(), seconds=0.01)
