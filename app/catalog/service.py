"""Use-cases of models and datasets, each one transaction. Only what the gate wrote becomes a blob."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from sqlalchemy.orm import Session

from app.catalog import repository
from app.catalog.models import Dataset, Model
from app.database import begin_writing, new_id, now
from app.errors import NotFound
from app.intake.description import describe_folder
from app.intake.gate import pass_gate
from app.intake.limits import Limits
from app.storage import BlobWriter


@dataclass(frozen=True)
class Upload:
    """What came in, the place for what stands for it, and how much it may be."""

    received: BlobWriter
    fresh: BlobWriter
    limits: Limits
    filename: str
    """What the client calls the file."""

    def check(self, kind: str) -> dict[str, Any]:
        """Pass the gate: fill `fresh`, return the facts. Raises Invalid."""
        return pass_gate(kind, self.received.path, self.limits, self.fresh.write, self.filename)


def add_model(session: Session, upload: Upload, name: str) -> Model:
    """Check an uploaded model and keep what the gate made of it. Raises Invalid."""
    facts = upload.check("model")
    if facts["format"] == "huggingface":
        facts |= describe_folder(upload.fresh.path, upload.limits)
    stored = upload.fresh.commit()
    model = Model(
        id=new_id("mdl"),
        name=name,
        format=facts["format"],
        bytes=upload.received.size,
        sha256=upload.received.sha256,
        stored_bytes=stored.bytes,
        stored_sha256=stored.sha256,
        created_at=now(),
        inputs=facts["inputs"],
        layers=facts["layers"],
        parameters=facts["parameters"],
    )
    begin_writing(session)
    session.add(model)
    session.commit()
    return model


def add_dataset(session: Session, upload: Upload, name: str) -> Dataset:
    """Check an uploaded dataset and keep what the gate made of it. Raises Invalid."""
    samples = upload.check("dataset")
    stored = upload.fresh.commit()
    dataset = Dataset(
        id=new_id("dts"),
        name=name,
        bytes=upload.received.size,
        sha256=upload.received.sha256,
        stored_bytes=stored.bytes,
        stored_sha256=stored.sha256,
        created_at=now(),
        samples=samples["samples"],
        tensors=samples["tensors"],
    )
    begin_writing(session)
    session.add(dataset)
    session.commit()
    return dataset


def read_model(session: Session, model_id: str) -> Model:
    """Return a model. Raises NotFound."""
    return repository.find(session, Model, model_id) or no_model(model_id)


def read_dataset(session: Session, dataset_id: str) -> Dataset:
    """Return a dataset. Raises NotFound."""
    return repository.find(session, Dataset, dataset_id) or no_dataset(dataset_id)


def list_models(session: Session, before: str | None, limit: int) -> Sequence[Model]:
    """Return models, newest first."""
    return repository.page(session, Model, before, limit)


def list_datasets(session: Session, before: str | None, limit: int) -> Sequence[Dataset]:
    """Return datasets, newest first."""
    return repository.page(session, Dataset, before, limit)


def no_model(model_id: str) -> NoReturn:
    """Raise NotFound for a model."""
    raise NotFound("model_not_found", f"There is no model {model_id}.", "GET /v1/models lists what there is.")


def no_dataset(dataset_id: str) -> NoReturn:
    """Raise NotFound for a dataset."""
    raise NotFound("dataset_not_found", f"There is no dataset {dataset_id}.", "GET /v1/datasets lists what there is.")
