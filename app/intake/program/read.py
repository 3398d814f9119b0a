"""Read a torch.export archive (torch 2.13), check every value, and write a fresh archive of the checked values.

ROOT/models/model.json                        the program (schema.py, dataflow.py)
ROOT/data/weights/…, ROOT/data/constants/…    tensors as raw bytes (tensors.py)
ROOT/data/sample_inputs/model.pt              a pickle of the user's data: never opened, replaced by an empty file

torch executes text from such a file in many places, so it only ever loads the archive that is written here.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from app.intake.archives.stored_zip import Archive
from app.intake.archives.zip_writer import Member, archive_of, member_of
from app.intake.facts import Model
from app.intake.limits import Limits
from app.intake.parsing.strict_json import read_json
from app.intake.parsing.typed import Wrong
from app.intake.program.dataflow import check_flow
from app.intake.program.foreign import refuse_foreign_archive, refuse_foreign_file
from app.intake.program.layers import read_facts
from app.intake.program.refusals import misfit, refused
from app.intake.program.schema import document
from app.intake.program.tensors import KINDS, Payload, read_payload

PROGRAM = "models/model.json"
_MEMBER = re.compile(
    r"models/model\.json|data/weights/(model_weights_config\.json|weight_\d{1,6})"
    r"|data/constants/(model_constants_config\.json|tensor_\d{1,6})|data/sample_inputs/model\.pt"
    r"|archive_format|archive_version|byteorder|\.data/(version|serialization_id)"
)
_FIXED = {"archive_format": b"pt2", "archive_version": b"0", "byteorder": b"little", ".data/version": b"6\n"}
_EMPTY = ("data/sample_inputs/model.pt",)


@dataclass(frozen=True)
class CheckedProgram:
    """A program in which every value has been checked."""

    facts: Model
    document: dict[str, Any]
    payloads: tuple[Payload, ...]
    path: Path

    def write(self, target: BinaryIO) -> None:
        """Write the fresh archive in one forward pass; memory stays constant."""
        with Archive(self.path) as archive:
            archive.check_members()
            documents = {PROGRAM: self.document, **{payload.config_name: payload.config for payload in self.payloads}}
            members = [member_of(name, content) for name, content in _FIXED.items()]
            members += [member_of(name, b"") for name in _EMPTY]
            members += [member_of(name, json.dumps(content).encode()) for name, content in documents.items()]
            members += [_copied(archive, name) for payload in self.payloads for name in payload.members]
            for chunk in archive_of(members):
                target.write(chunk)


def read_program(path: Path, limits: Limits) -> CheckedProgram:
    """Check every byte of an archive. Raises Invalid with what is wrong, and where."""
    refuse_foreign_file(path)
    with Archive(path) as archive:
        refuse_foreign_archive(archive.names)
        archive.check_members()
        for name in archive.sizes:
            if not _MEMBER.fullmatch(name):
                raise refused(f"{name}: a program of tensors only has no such member.")
        if archive.read("archive_format", 16) != b"pt2" or archive.read("byteorder", 16) != b"little":
            raise refused("archive_format and byteorder must say pt2 and little.")
        payloads = tuple(read_payload(archive, kind, limits) for kind in KINDS)
        program = _document(archive, limits)
        for name in (name for payload in payloads for name in payload.members):
            for _ in archive.chunks(name):  # checks the checksum before the facts are reported
                pass
    _require_tensors(program, payloads)
    return CheckedProgram(read_facts(program), program, payloads, path)


def _document(archive: Archive, limits: Limits) -> dict[str, Any]:
    """Return the checked model.json. Raises Invalid."""
    content = archive.read(PROGRAM, limits.program_bytes)
    parsed = read_json(content, lambda detail: refused(f"{PROGRAM}: the file {detail}."))
    try:
        checked: dict[str, Any] = document(limits)(parsed)
        check_flow(checked, limits)
    except Wrong as wrong:
        raise misfit(PROGRAM, wrong) from None
    return checked


def _require_tensors(program: dict[str, Any], payloads: tuple[Payload, ...]) -> None:
    """Raise Invalid unless every tensor of the signature is stored, with the dtype and shape of the graph."""
    weights, constants = (payload.config["config"] for payload in payloads)
    values = program["graph_module"]["graph"]["tensor_values"]
    for spec in program["graph_module"]["signature"]["input_specs"]:
        (kind, content), *_ = spec.items()
        if kind not in ("parameter", "buffer", "tensor_constant"):
            continue
        name = content[f"{kind}_name"]
        config = weights if kind == "parameter" or content.get("persistent") else constants
        if name not in config:
            raise refused(f"data: no tensor for {name}.")
        declared, stored = values[content["arg"]["name"]], config[name]["tensor_meta"]
        if (declared["dtype"], declared["sizes"]) != (stored["dtype"], stored["sizes"]):
            raise refused(f"{PROGRAM}: {name} has another dtype or shape than its stored tensor.")


def _copied(archive: Archive, name: str) -> Member:
    place = archive.place(name)
    return Member(name, place.size, place.crc, lambda: archive.chunks(name))
