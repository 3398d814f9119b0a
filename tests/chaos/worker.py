"""The worker of the chaos run, started as `python -m tests.chaos.worker`: the product's, but for its job program."""

import sys

from sandbox.policy import Sandbox, command
from tests.chaos import mutants
from tests.chaos import program as stand_in_program
from worker import main
from worker.child import prestarted

PROGRAM = stand_in_program.__file__


def stand_in(program: str, sandbox: Sandbox) -> list[str]:
    """Start the stand-in, which is told how to start the real program. -I -S: it needs nothing that is installed."""
    real = command(program, sandbox)
    return [sys.executable, "-I", "-S", "-u", PROGRAM, *real[1:]]


mutants.prepare()
setattr(prestarted, command.__name__, stand_in)
# Without a template, programs start by themselves.
setattr(prestarted.PrestartedChildren, prestarted.PrestartedChildren.prepare.__name__, lambda _: None)
sys.exit(main.app.worker_main(["worker", *sys.argv[1:]]))
