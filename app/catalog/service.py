"""Use-cases of models and datasets, each one transaction. Only what the gate wrote becomes a blob."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NoReturn, TypeVar

from sqlalchemy.orm import Session

from app import metrics, traces
from app.accounts import audit
from app.catalog import repository
from app.catalog.models import Dataset, Model
from app.catalog.names import find_id, next_version, reference_of
from app.database import begin_writing, clock, new_id
from app.errors import Invalid, NotFound
from app.intake.confined import Stop
from app.intake.description import describe_folder
from app.intake.gate import pass_gate
from app.intake.limits import Limits
from app.storage import BlobWriter

Row = TypeVar("Row", Model, Dataset)

KINDS: Mapping[str, str] = {"mdl": "model", "dts": "dataset", "job": "job", "swp": "sweep"}
"""What an id names, by its beginning."""


@dataclass(frozen=True)
class Upload:
    """The file that a client sent, the blob that will stand for it, and the limits on both."""

    received: BlobWriter
    fresh: BlobWriter
    limits: Limits
    filename: str
    """What the client calls the file."""
    stop: Stop = field(default_factory=Stop)
    """Ends the check early."""

    def check(self, kind: str) -> dict[str, Any]:
        """Pass the gate: fill `fresh`, return the facts. Raises Invalid, Stopped."""
        return pass_gate(kind, self.received.path, self.limits, self.fresh.write, self.filename, stop=self.stop)


@dataclass(frozen=True)
class Examined:
    """The columns of an upload that passed its checks, and whose fresh file is stored."""

    columns: Mapping[str, Any]


@dataclass(frozen=True)
class Catalog(Generic[Row]):
    """The uploads of one kind.

    `check` passes an upload through the gate and returns the columns that only this kind has. `not_found` and `in_use`
    are codes of errors.
    """

    table: type[Row]
    word: str
    id_prefix: str
    check: Callable[[Upload], dict[str, Any]]
    not_found: str
    in_use: str

    def examine(self, upload: Upload) -> Examined:
        """Check an upload and store what the gate made of it. Raises Invalid, Stopped."""
        facts = self._checked(upload)
        stored = upload.fresh.commit()
        columns = {
            "bytes": upload.received.size,
            "sha256": upload.received.sha256,
            "stored_bytes": stored.bytes,
            "stored_sha256": stored.sha256,
        }
        return Examined(columns | facts)

    def _checked(self, upload: Upload) -> dict[str, Any]:
        began, outcome = time.monotonic(), "failed"
        try:
            with traces.span("gate", kind_of_upload=self.word, upload_bytes=upload.received.size):
                facts = self.check(upload)
            outcome = "passed"
        except Invalid:
            outcome = "refused"
            raise
        finally:
            metrics.GATE_SECONDS.labels(self.word, outcome).observe(time.monotonic() - began)
        return facts

    def keep(self, session: Session, examined: Examined, name: str) -> Row:
        """Keep an upload that was examined."""
        begin_writing(session)
        row = self.add(session, examined, name)
        session.commit()
        return row

    def add(self, session: Session, examined: Examined, name: str) -> Row:
        """Add an upload that was examined, in the caller's transaction."""
        version = next_version(session, self.word, name)
        at = clock(session)
        row = self.table(id=new_id(self.id_prefix, at), name=name, version=version, created_at=at, **examined.columns)
        session.add(row)
        audit.record(session, f"{self.word}.uploaded", row.id)
        return row

    def id_of(self, session: Session, text: str) -> str:
        """Return the id of what `name@version` or `name@latest` stands for, or the id itself. Raises NotFound."""
        reference = reference_of(text)
        if reference is None:
            return text
        return find_id(session, self.table, reference) or self.missing(text)

    def read(self, session: Session, upload_id: str) -> Row:
        """Return an upload, without its contents. Raises NotFound."""
        return repository.find(session, self.table, upload_id) or self.missing(upload_id)

    def read_whole(self, session: Session, upload_id: str) -> Row:
        """Return an upload with its contents. Raises NotFound."""
        return repository.find_whole(session, self.table, upload_id) or self.missing(upload_id)

    def page(self, session: Session, before: str | None, limit: int) -> Sequence[Row]:
        """Return uploads, newest first, older than the id `before`."""
        return repository.page(session, self.table, before, limit)

    def hold(self, session: Session, upload_id: str) -> None:
        """Keep an upload from being deleted until the transaction ends. Raises NotFound."""
        if not repository.hold(session, self.table, upload_id):
            self.missing(upload_id)

    def lock(self, session: Session, upload_id: str) -> Row:
        """Return an upload and wait for every transaction that holds it. Raises NotFound."""
        return repository.lock(session, self.table, upload_id) or self.missing(upload_id)

    def missing(self, upload_id: str) -> NoReturn:
        """Raise NotFound for an upload."""
        kind = KINDS.get(upload_id.partition("_")[0], self.word)
        detail = f"There is no {self.word} {upload_id}{f': this is the id of a {kind}' * (kind != self.word)}."
        raise NotFound(self.not_found, detail, f"GET /v1/{self.word}s lists what there is.")


def _check_model(upload: Upload) -> dict[str, Any]:
    facts = upload.check("model")
    if facts["format"] == "huggingface":
        facts |= describe_folder(upload.fresh.path, upload.limits, upload.stop)
    return {name: facts[name] for name in ("format", "inputs", "layers", "parameters", "warnings", "left_out")}


def _check_dataset(upload: Upload) -> dict[str, Any]:
    facts = upload.check("dataset")
    return {name: facts[name] for name in ("samples", "tensors")}


MODELS = Catalog(Model, "model", "mdl", _check_model, "model_not_found", "model_in_use")
DATASETS = Catalog(Dataset, "dataset", "dts", _check_dataset, "dataset_not_found", "dataset_in_use")
