"""Write app/intake/program/operators.txt: each operator in an export of tests/honest_programs.py or tests/operators.py.

python -m scripts.list_operators

Only aten operators and Python's arithmetic on sizes are taken; whatever else an export holds fails the gate's tests.
"""

import io
import json
import logging
import zipfile
from collections.abc import Iterator

import torch
from torch.export import ExportedProgram

from app.intake.program.operators import LIST
from tests import operators
from tests.honest_programs import HONEST

KINDS = ("torch.ops.aten.", "_operator.", "torch.sym_")


def targets(program: ExportedProgram) -> Iterator[str]:
    """What the nodes of a program call, as its file says it."""
    file = io.BytesIO()
    torch.export.save(program, file)
    with zipfile.ZipFile(file) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/models/model.json"))
        nodes = json.loads(archive.read(name))["graph_module"]["graph"]["nodes"]
    yield from (node["target"] for node in nodes)


def main() -> None:
    """Export everything, with and without decompositions."""
    logging.disable(logging.CRITICAL)
    found: set[str] = set()
    for make in HONEST.values():
        found |= {target for program in make().programs() for target in targets(program)}
    for texts in operators.groups():
        found |= {target for program in operators.programs(texts) for target in targets(program)}
    kept = sorted(target for target in found if target.startswith(KINDS))
    LIST.write_text("".join(f"{target}\n" for target in kept), "ascii")
    print(f"{len(kept)} operators; left out: {sorted(found - set(kept))}")


if __name__ == "__main__":
    main()
