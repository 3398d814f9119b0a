"""One history by hand: python -m tests.history [sqlite|postgresql] [SECONDS] [SEED] [MUTANT]

A broken service (see tests/chaos/mutants.py) is left in peace. Logs stay where standard output says.
"""

import sys
import tempfile
from pathlib import Path

from tests.history.run import Plan, run
from tests.networks import convolutional

database, seconds, seed, mutant = (*sys.argv[1:], *("postgresql", "10", "1", "")[len(sys.argv) - 1 :])
folder = Path(tempfile.mkdtemp(prefix="zeropoint-history-"))
plan = Plan(database, float(seconds), int(seed), mutant=mutant, breaks=not mutant)
outcome = run(plan, convolutional().export(folder / "model.pt2"), folder)
sys.stdout.write(f"{outcome}\n" + "".join(f"{violation}\n" for violation in outcome.violations))
sys.stdout.write(f"logs: {folder}\n")
sys.exit(bool(outcome.violations))
