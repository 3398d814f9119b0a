"""The three layouts that torch.export.save has had, and the members that an archive of each may have.

since 2.9   ROOT/models/model.json, storages as raw bytes in ROOT/data/weights and ROOT/data/constants (tensors.py)
2.8         ROOT/models/model.json, ROOT/data/weights/model.pt and ROOT/data/constants/model.pt by torch.save
before 2.8  serialized_exported_program.json and serialized_*.pt by torch.save, in no folder

Sample inputs are pickles of the user's data: never opened, replaced by an empty file.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from app.intake.archives.stored_zip import Archive
from app.intake.limits import Limits
from app.intake.program.pickled_tensors import read_pickled_payload
from app.intake.program.refusals import refused
from app.intake.program.tensors import KINDS, Payload, read_payload

PROGRAM = "models/model.json"
OLDEST_PROGRAM = "serialized_exported_program.json"


@dataclass(frozen=True)
class Layout:
    """Which member is the program, whether all lie in one folder, and which further ones there may be."""

    program: str
    rooted: bool
    members: re.Pattern[str]


ROOTED = Layout(
    PROGRAM,
    rooted=True,
    members=re.compile(
        r"models/model\.json|data/weights/(model_weights_config\.json|weight_[0-9]{1,6}|model\.pt)"
        r"|data/constants/(model_constants_config\.json|tensor_[0-9]{1,6}|model\.pt)|data/sample_inputs/model\.pt"
        r"|archive_format|archive_version|byteorder|\.data/(version|serialization_id)"
    ),
)
OLDEST = Layout(
    OLDEST_PROGRAM,
    rooted=False,
    members=re.compile(r"serialized_(exported_program\.json|state_dict\.pt|constants\.pt|example_inputs\.pt)|version"),
)


def layout_of(names: Collection[str]) -> Layout:
    """Return the layout of an archive whose members have these whole names."""
    return OLDEST if OLDEST_PROGRAM in names else ROOTED


def check_layout(archive: Archive, layout: Layout) -> None:
    """Check the members of an archive and what says how it was written. Raises Invalid."""
    archive.check_members(rooted=layout.rooted)
    for name in archive.sizes:
        if not layout.members.fullmatch(name):
            raise refused(f"{name}: a program of tensors only has no such member.")
    if layout.rooted and (archive.read("archive_format", 16) != b"pt2" or archive.read("byteorder", 16) != b"little"):
        raise refused("archive_format and byteorder must say pt2 and little.")


def read_payloads(archive: Archive, path: Path, layout: Layout, limits: Limits) -> tuple[Payload, ...]:
    """Return the tensors of an archive as the written layout has them, weights before constants. Raises Invalid."""
    payloads = []
    for kind in KINDS:
        pickled = kind.pickled if layout.rooted else kind.oldest
        if {pickled, kind.config_name} <= archive.sizes.keys():
            raise refused(f"{pickled}: the tensors are in {kind.config_name} too.")
        if layout.rooted and pickled not in archive.sizes:
            payloads.append(read_payload(archive, path, kind, limits))
        else:
            payloads.append(read_pickled_payload(archive, path, kind, pickled, limits))
    return tuple(payloads)
