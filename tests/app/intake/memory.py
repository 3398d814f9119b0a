"""How much memory reading a file takes, seen from outside: in a process of its own."""

import json
import subprocess
import sys

from tests.servers import ROOT

_PROGRAM = """
import json, re, sys
from pathlib import Path
from app.errors import Invalid
{imports}

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

before = peak()
try:
    {statement}
    outcome = "taken"
except Invalid as refusal:
    outcome = refusal.detail
print(json.dumps([outcome, peak() - before]))
"""


def outcome_and_growth(imports: str, statement: str, *arguments: str) -> tuple[str, int]:
    """Return "taken" or the refusal, and by how many KiB the process grew at most; sys.argv has the arguments."""
    program = _PROGRAM.format(imports=imports, statement=statement)
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=300)
    outcome, growth = json.loads(done.stdout)
    return outcome, growth
