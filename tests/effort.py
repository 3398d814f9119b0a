"""How far tests look that could look for ever, and where they begin: elsewhere for each commit, further when asked to.

A test that searches for faults nobody knows proves more when each commit's run searches another part. What a log says
of the seed is enough to search the same part again.
"""

import os
import subprocess
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def commit_seed() -> int:
    """Return a number of 31 bits that only the commit decides; 1 where git knows of none, as in an unpacked archive."""
    command = ["git", "rev-parse", "--verify", "HEAD"]
    try:
        commit = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return 1
    return zlib.crc32(commit.strip()) & 0x7FFFFFFF


def seed_of(variable: str) -> int:
    """Return the seed that an environment variable names, and else the commit's."""
    return int(os.environ.get(variable) or commit_seed())


FUZZ_EFFORT = float(os.environ.get("FUZZ_EFFORT", "0.25"))
"""A part of the fuzzing that a change of what reads uploads needs, which is 1; 20 for a night."""
FUZZ_SEED = seed_of("FUZZ_SEED")
WHOLE_SUITE = "TESTS_WHOLE_SUITE"
"""Set in a run of all tests on several processes: of families marked `sampled`, it takes a part."""
CHAOS_SECONDS = float(os.environ.get("CHAOS_SECONDS", "20"))
"""For how long the parts of a service are killed while jobs run; a change of what carries jobs needs 60."""
CHAOS_SEED = seed_of("CHAOS_SEED")


def in_turn(of: int, position: int) -> bool:
    """Return whether a commit's run of all tests takes this member of a family: one of `of` in a row."""
    return FUZZ_EFFORT >= 1 or WHOLE_SUITE not in os.environ or (position + FUZZ_SEED) % of == 0
