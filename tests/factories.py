"""One word for each thing that a test needs to be there."""

import io
import json
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from app.accounts.caller import DEFAULT_PROJECT, Caller, Role, called_by
from app.catalog.models import Dataset, Model
from app.catalog.service import DATASETS, MODELS, Upload
from app.database import clock, new_id
from app.intake.limits import Limits
from app.intake.program.read import read_program
from app.jobs import claims, service
from app.jobs.claims import Claim
from app.jobs.models import Job
from app.jobs.submission import MostSeconds, Submission
from app.jobs.work import QuantizeWork
from app.storage import Storage
from zeropoint.schema.recipe import Recipe

MOST = MostSeconds(pending=3600, running=3600)
WIDTHS = {"F32": 4, "I64": 8, "U8": 1, "BOOL": 1, "F16": 2}


def content_of(storage: Storage, sha256: str) -> bytes:
    """Return the bytes of a blob."""
    return b"".join(storage.open(sha256))


def safetensors(**tensors: tuple[str, list[int]]) -> bytes:
    """Return a safetensors file of zeros: name=(code, shape)."""
    header: dict[str, Any] = {}
    free = 0
    for name, (code, shape) in tensors.items():
        size = WIDTHS[code]
        for length in shape:
            size *= length
        header[name] = {"dtype": code, "shape": shape, "data_offsets": [free, free + size]}
        free += size
    return with_header(header, bytes(free))


def with_header(header: object, body: bytes = b"") -> bytes:
    """Return a safetensors file with any header."""
    data = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(data)) + data + body


def members_of(archive: Path) -> dict[str, bytes]:
    """Return every member of a zip by its full name."""
    with zipfile.ZipFile(archive) as source:
        return {name: source.read(name) for name in source.namelist()}


def write_zip(path: Path, members: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    """Write a zip with these members."""
    with zipfile.ZipFile(path, "w", compression) as target:
        for name, data in members.items():
            target.writestr(name, data)
    return path


def fresh_of(archive: Path) -> bytes:
    """What the gate writes in place of a program."""
    target = io.BytesIO()
    read_program(archive, Limits()).write(target)
    return target.getvalue()


_passed: dict[tuple[str, str], tuple[dict[str, Any], bytes]] = {}


@dataclass(frozen=True)
class KnownUpload(Upload):
    """An upload for a test of something else: the same bytes pass the gate once in this process."""

    def check(self, kind: str) -> dict[str, Any]:
        known = _passed.get((kind, self.received.sha256))
        if known is None:
            facts = super().check(kind)
            _passed[kind, self.received.sha256] = facts, self.fresh.path.read_bytes()
            return facts
        facts, stored = known
        self.fresh.write(stored)
        return dict(facts)


def add_model(session: Session, storage: Storage, archive: Path) -> Model:
    """Keep a model as an upload would."""
    with storage.writer() as writer, storage.writer() as fresh:
        writer.write(archive.read_bytes())
        return MODELS.keep(session, MODELS.examine(KnownUpload(writer, fresh, Limits(), "")), "model")


def add_dataset(session: Session, storage: Storage, data: bytes) -> Dataset:
    """Keep a dataset as an upload would."""
    with storage.writer() as writer, storage.writer() as fresh:
        writer.write(data)
        return DATASETS.keep(session, DATASETS.examine(KnownUpload(writer, fresh, Limits(), "")), "dataset")


def add_job(session: Session, project: str = DEFAULT_PROJECT, **fields: Any) -> Job:
    """Queue a weight-only job of a project on a model that is only a row."""
    with called_by(member_of(project)):
        return _add_job(session, **fields)


def _add_job(session: Session, **fields: Any) -> Job:
    model = Model(
        id=new_id("mdl", clock(session)),
        name=new_id("model", clock(session)),
        format="pt2",
        bytes=1,
        sha256="a" * 64,
        stored_bytes=1,
        stored_sha256="a" * 64,
        created_at=clock(session),
        inputs=[],
        layers=[],
        parameters=0,
    )
    session.add(model)
    session.commit()
    work = QuantizeWork(fields.pop("recipe", Recipe(activations=None)))
    submission = Submission(**{"model": model.id, "work": work, **fields})
    return service.submit(session, submission, MOST)


def member_of(project: str, role: Role = Role.ADMIN) -> Caller:
    """Return one who calls for a project."""
    return Caller(project, role, f"a {role} of {project}")


def claim_one(session: Session, device: str = "cpu", worker: str = "worker") -> Claim:
    """Claim the job whose turn it is."""
    claim = claims.claim(session, device, worker, lease_seconds=60)
    assert claim is not None
    return claim
