"""A pool process that is forked while the main one writes finds the database open."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import ROOT

FORKS = """
import os, sys, threading
from app.database import begin_writing, connected
from app.settings import get_settings
from worker.child.forking import no_fork

def write(guard):
    with guard, connected(get_settings()) as sessions, sessions() as session:
        begin_writing(session)
        session.commit()

def write_for_ever():
    while True:
        write(no_fork)

threading.Thread(target=write_for_ever, daemon=True).start()
for _ in range(60):
    pid = os.fork()
    if pid == 0:
        write(threading.Lock())
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
"""


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_fork_takes_no_lock_of_the_database_along(database_url: str, tmp_path: Path) -> None:
    environment = {"ZEROPOINT_DATABASE_URL": database_url}
    subprocess.run([sys.executable, "-c", FORKS], cwd=ROOT, env=environment, check=True, timeout=300)
