"""A process that has imported a program, and forks a process of it for each job: no job waits for an import.

    python -m sandbox.template PROGRAM        PROGRAM: a name in `programs`; standard input: a socket for requests

A request is one message: the text of a sandbox (see `policy`), with the descriptors of the folder and of standard
input, output and error. The answer is the id of a process that does what `sandbox.child` does: it confines itself
before it opens anything. Its parent is whoever asked, who must adopt orphans (PR_SET_CHILD_SUBREAPER).

The template computes nothing and opens no upload. It has one thread, since a lock that another one holds would stay
locked in the copy: it counts them before each fork, and ends if there are more. Then programs start by themselves.
"""

import os
import socket
import sys
import time
from collections.abc import Sequence
from traceback import print_exc
from typing import NoReturn

from sandbox import child
from sandbox.parent_death import die_with
from sandbox.programs import PROGRAMS

MOST_BYTES = 1 << 16
"""Of a request's text."""
DESCRIPTORS = 4


def main(name: str) -> None:
    """Answer requests until the socket closes or a second thread is there."""
    child.load(PROGRAMS[name])
    requests = socket.socket(fileno=0)
    while True:
        text, descriptors, _, _ = socket.recv_fds(requests, MOST_BYTES, DESCRIPTORS)
        if not text or not _is_alone():
            return
        requests.send(str(_fork(name, text.decode(), descriptors)).encode())
        for descriptor in descriptors:
            os.close(descriptor)


def _is_alone() -> bool:
    return len(os.listdir("/proc/self/task")) == 1


def _fork(name: str, sandbox_text: str, descriptors: Sequence[int]) -> int:
    """Fork twice, so that the second process is an orphan, and return its id once it leads its own session."""
    told, tell = os.pipe()
    asker = os.getppid()
    between = os.fork()
    if between == 0:
        if os.fork() == 0:
            _become(name, sandbox_text, (*descriptors, tell), asker)
        os._exit(0)
    os.waitpid(between, 0)
    os.close(tell)
    process = int(os.read(told, 32))
    os.close(told)
    return process


def _become(name: str, sandbox_text: str, descriptors: Sequence[int], parent: int) -> NoReturn:
    """Run the program in this process, as its own session's leader, and end with it."""
    code = 1
    try:
        _await_adoption(parent)
        die_with(parent)
        os.setsid()
        folder, *streams, tell = descriptors
        os.write(tell, str(os.getpid()).encode())
        os.fchdir(folder)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        os.closerange(len(streams), os.sysconf("SC_OPEN_MAX"))
        code = child.main(name, sandbox_text)
    except BaseException:  # nothing of the template may go on in this process
        print_exc()
    finally:
        child.leave(code)


def _await_adoption(parent: int) -> None:
    while os.getppid() != parent:
        if not _lives(parent):
            os._exit(1)
        time.sleep(0.001)


def _lives(process: int) -> bool:
    return os.path.exists(f"/proc/{process}")


if __name__ == "__main__":
    main(*sys.argv[1:])
