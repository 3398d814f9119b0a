"""Print what a part of Zeropoint needs, a requirement a line: `python requirements.py PYPROJECT PART …`.

A part is an extra of pyproject.toml, or `library`. pip can install an extra only together with the library's own
requirements, torch among them, which an image of the API does without.
"""

import sys
import tomllib
from pathlib import Path

_, pyproject, *parts = sys.argv
project = tomllib.loads(Path(pyproject).read_text())["project"]
known = {"library": project["dependencies"], **project["optional-dependencies"]}
for part in parts:
    print(*known[part], sep="\n")
