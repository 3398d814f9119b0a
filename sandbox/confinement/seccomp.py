"""seccomp: system calls that a process gives up for good, in two steps, as small BPF programs.

Nearly every refusal is EPERM, so that Python raises a PermissionError that says where. A call that no model can want
(FATAL: to read another process, to load a kernel module, to mount) ends the process with SIGSYS instead.
"""

import ctypes
import errno
from collections.abc import Iterable
from struct import pack

from sandbox.confinement import kernel
from sandbox.confinement.kernel import LayerOff, call, number

FATAL = (
    *("ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "process_mrelease", "kcmp", "pidfd_getfd"),
    *("mount", "umount2", "pivot_root", "open_tree", "open_tree_attr", "move_mount", "mount_setattr"),
    *("fsopen", "fsconfig", "fsmount", "fspick"),
    *("init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "reboot", "swapon", "swapoff"),
)
FROM_THE_START = (
    # the network, and every other way to talk to a process that is not a pipe it was given
    *("socket", "socketpair", "connect", "bind", "listen", "accept", "accept4"),
    *("shmget", "msgget", "semget", "mq_open", "memfd_create", "memfd_secret", "pidfd_open", "pidfd_send_signal"),
    # more of the kernel than arithmetic needs
    *("bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register"),
    *("add_key", "request_key", "keyctl", "fanotify_init", "name_to_handle_at", "open_by_handle_at"),
    *("unshare", "setns", "chroot", "acct", "quotactl", "quotactl_fd", "syslog", "personality", "modify_ldt"),
    *("iopl", "ioperm", "sethostname", "setdomainname"),
    *("settimeofday", "clock_settime", "clock_adjtime", "adjtimex"),
    # what Landlock leaves open on files that it hides: whose they are, who may read them, how old they are
    *("chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "fchown", "lchown", "fchownat", "mknod", "mknodat"),
    *("setxattr", "lsetxattr", "fsetxattr", "setxattrat", "file_setattr"),
    *("removexattr", "lremovexattr", "fremovexattr", "removexattrat"),
    *("utime", "utimes", "futimesat", "utimensat"),
    # what the same user may do to the worker's own process
    *("setpriority", "ioprio_set", "sched_setattr", "sched_setparam", "sched_setscheduler"),
    *("migrate_pages", "move_pages"),
)
LEAVING = ("execveat", "setsid", "setpgid")
BEFORE_AN_UPLOAD = ("execve", "fork", "vfork", *LEAVING)

CLONE_THREAD = 0x10000
CLONE_NAMESPACES = 0x7E020000
PR_SET_PDEATHSIG = 1

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32 = 0x40000000
_SET_MODE_FILTER, _FLAG_TSYNC = 1, 1
_KILL, _ALLOW, _ERRNO = 0x80000000, 0x7FFF0000, 0x00050000
_LOAD, _RETURN, _IF_EQUAL, _IF_AT_LEAST, _IF_ANY_BIT = 0x20, 0x06, 0x15, 0x35, 0x45
_AT_NUMBER, _AT_ARCH, _AT_ARGUMENTS = 0, 4, 16
_REFUSE = _ERRNO | errno.EPERM


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def confine() -> None:
    """Give up the network, namespaces and other processes for a child's whole life (step 1). Raises LayerOff."""
    program = _refuse(FATAL, _KILL) + _refuse(FROM_THE_START, _REFUSE)
    # What clone3 asks for lies in memory, where no filter can look: glibc then uses clone.
    program += _refuse(["clone3"], _ERRNO | errno.ENOSYS)
    program += _refuse_when("clone", _IF_ANY_BIT, CLONE_NAMESPACES)
    program += _refuse_unless("prlimit64", _IF_EQUAL, 0)  # its own limits alone, not the worker's
    _install(program)


def lock_down() -> None:
    """Give up programs and processes, but not threads, before an upload is opened (step 2). Raises LayerOff."""
    program = _refuse(BEFORE_AN_UPLOAD, _REFUSE)
    program += _refuse_unless("clone", _IF_ANY_BIT, CLONE_THREAD)
    program += _refuse_when("prctl", _IF_EQUAL, PR_SET_PDEATHSIG)  # it dies with the worker, whatever it wants
    _install(program)


def keep_to_the_group() -> None:
    """Give up leaving the job's process group, in the process that may start a compiler (step 2). Raises LayerOff."""
    program = _refuse(LEAVING, _REFUSE)
    program += _refuse_when("prctl", _IF_EQUAL, PR_SET_PDEATHSIG)
    _install(program)


def _install(rules: bytes) -> None:
    """Install a filter for every thread of the process, also those that libraries started at import."""
    arch = _AUDIT_ARCH.get(kernel.MACHINE)
    seccomp = number("seccomp")
    if arch is None or seccomp is None:
        raise LayerOff(f"no filter is written for {kernel.MACHINE}")
    start = _step(_LOAD, _AT_ARCH) + _step(_IF_EQUAL, arch, 1, 0) + _step(_RETURN, _KILL) + _step(_LOAD, _AT_NUMBER)
    if kernel.MACHINE == "x86_64":  # the x32 calls are the same ones under other numbers
        start += _step(_IF_AT_LEAST, _X32, 0, 1) + _step(_RETURN, _KILL)
    instructions = start + rules + _step(_RETURN, _ALLOW)
    program = _Program(len(instructions) // 8, instructions)
    try:
        call(seccomp, _SET_MODE_FILTER, _FLAG_TSYNC, ctypes.byref(program))
    except OSError as error:
        raise LayerOff(f"seccomp: {error.strerror}") from error


def _refuse(names: Iterable[str], answer: int) -> bytes:
    numbers = [known for name in names if (known := number(name)) is not None]
    return b"".join(_step(_IF_EQUAL, known, 0, 1) + _step(_RETURN, answer) for known in numbers)


def _refuse_when(name: str, test: int, value: int) -> bytes:
    return _by_first_argument(name, test, value, _REFUSE, _ALLOW)


def _refuse_unless(name: str, test: int, value: int) -> bytes:
    return _by_first_argument(name, test, value, _ALLOW, _REFUSE)


def _by_first_argument(name: str, test: int, value: int, yes: int, no: int) -> bytes:
    """Decide by the first argument, an int or 32 flags: the low half of the register holds all of it."""
    known = number(name)
    assert known is not None
    decide = _step(_LOAD, _AT_ARGUMENTS) + _step(test, value, 0, 1) + _step(_RETURN, yes) + _step(_RETURN, no)
    return _step(_IF_EQUAL, known, 0, len(decide) // 8) + decide


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return pack("=HBBI", code, if_true, if_false, value)
