"""The C++ compiler of this machine: the programs that it consists of, which a process that compiles may start."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache

COMPILER = "g++"
"""What torch's Inductor starts."""
PARTS = ("cc1plus", "collect2", "as", "ld")
SECONDS = 10.0


@cache
def programs() -> tuple[str, ...]:
    """Return the paths of the compiler and its parts; none where one is missing.

    It is looked for where a confined process looks.
    """
    compiler = shutil.which(COMPILER, path=os.defpath)
    if compiler is None:
        return ()
    try:
        found = [compiler, *_parts(compiler)]
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(map(os.path.realpath, found)) if all(map(os.path.isfile, found)) else ()


def _parts(compiler: str) -> Iterator[str]:
    for part in PARTS:
        command = [compiler, f"-print-prog-name={part}"]
        said = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True).stdout.strip()
        yield said if os.path.isabs(said) else shutil.which(said, path=os.defpath) or said
