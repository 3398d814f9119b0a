"""Read a torch.export archive of torch 2.6 or later, check every value, and write a fresh archive of torch 2.13.

ROOT/models/model.json                        the program (schema.py, dataflow.py)
ROOT/data/weights/…, ROOT/data/constants/…    tensors as raw bytes (tensors.py)
ROOT/data/sample_inputs/model.pt              an empty file in place of a pickle of the user's data

That is what is written; `layouts` says what is read. torch executes text from such a file in many places, so it only
ever loads the archive that is written here.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from app.errors import Invalid
from app.intake.archives.stored_zip import Archive
from app.intake.archives.zip_writer import archive_of, member_of
from app.intake.facts import Model
from app.intake.limits import Limits
from app.intake.parsing.strict_json import read_json
from app.intake.parsing.typed import Wrong
from app.intake.program.dataflow import check_flow
from app.intake.program.growth import check_growth
from app.intake.program.inlining import inline_regions
from app.intake.program.input_names import name_inputs
from app.intake.program.layers import read_facts
from app.intake.program.layouts import PROGRAM, check_layout, layout_of, read_payloads
from app.intake.program.refusals import misfit, of_unknown_release, refused
from app.intake.program.releases import KNOWN_WORDS, unknown_release, warning_of
from app.intake.program.schema import MAX_VERSION, SCHEMA_MAJOR, document
from app.intake.program.tensors import Payload
from app.intake.recognition import EXPORT, look_at, require_program

_FIXED = {"archive_format": b"pt2", "archive_version": b"0", "byteorder": b"little", ".data/version": b"6\n"}
_EMPTY = ("data/sample_inputs/model.pt",)


@dataclass(frozen=True)
class CheckedProgram:
    """A program in which every value has been checked."""

    facts: Model
    document: dict[str, Any]
    payloads: tuple[Payload, ...]

    def write(self, target: BinaryIO) -> None:
        """Write the fresh archive in one forward pass; memory stays constant."""
        documents = {PROGRAM: self.document, **{payload.config_name: payload.config for payload in self.payloads}}
        members = [member_of(name, content) for name, content in _FIXED.items()]
        members += [member_of(name, b"") for name in _EMPTY]
        members += [member_of(name, json.dumps(content).encode()) for name, content in documents.items()]
        members += [member for payload in self.payloads for member in payload.members]
        for chunk in archive_of(members):
            target.write(chunk)


def read_program(path: Path, limits: Limits) -> CheckedProgram:
    """Check every byte of an archive. Raises Invalid with what is wrong, and where."""
    require_program(look_at(path))
    with Archive(path) as archive:
        layout = layout_of(archive.names)
        check_layout(archive, layout)
        payloads = read_payloads(archive, path, layout, limits)
        content = archive.read(layout.program, limits.program_bytes)
    parsed = read_json(content, lambda detail: refused(f"{layout.program}: the file {detail}."))
    release = unknown_release(parsed)
    try:
        _require_schema(parsed, layout.program)
        parsed = name_inputs(inline_regions(parsed))
        program = _document(parsed, layout.program, limits)
        _require_tensors(program, payloads)
        facts = read_facts(program)
    except Invalid as refusal:
        raise refusal if release is None else of_unknown_release(refusal, release) from None
    if release is not None:
        facts = replace(facts, warnings=(warning_of(release), *facts.warnings))
    return CheckedProgram(facts, program, payloads)


def _require_schema(parsed: Any, where: str) -> None:
    """Raise Invalid if the program has another schema than the one that is read: nothing else of it can be judged."""
    version = parsed.get("schema_version") if isinstance(parsed, dict) else None
    major = version.get("major") if isinstance(version, dict) else version
    if type(major) is int and 0 <= major <= MAX_VERSION and major != SCHEMA_MAJOR:
        raise Invalid(
            "program_invalid",
            f"{where}: schema_version/major: must be {SCHEMA_MAJOR}, as torch {KNOWN_WORDS} write it, and is {major}.",
            f"Export the model with torch {KNOWN_WORDS}. {EXPORT}",
        )


def _document(parsed: Any, where: str, limits: Limits) -> dict[str, Any]:
    """Return the checked program. Raises Invalid."""
    try:
        checked: dict[str, Any] = document(limits)(parsed)
        check_flow(checked, limits)
        check_growth(checked, limits)
    except Wrong as wrong:
        raise misfit(where, wrong, parsed) from None
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
