"""Use-cases of models and datasets, each one transaction. An upload is checked before its bytes become a blob."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import NoReturn

from sqlalchemy.orm import Session

from app.catalog import repository
from app.catalog.models import Dataset, Model
from app.database import begin_writing, new_id, now
from app.errors import NotFound
from app.intake.pt2 import read_program
from app.intake.tensors import read_samples
from app.storage import BlobWriter


def add_model(session: Session, upload: BlobWriter, name: str) -> Model:
    """Check an uploaded model and keep it. Raises Invalid."""
    program = read_program(upload.path)
    blob = upload.commit()
    model = Model(
        id=new_id("mdl"),
        name=name,
        format="pt2",
        bytes=blob.bytes,
        sha256=blob.sha256,
        created_at=now(),
        inputs=[tensor.as_json() for tensor in program.inputs],
        layers=[asdict(layer) for layer in program.layers],
        parameters=program.parameters,
    )
    begin_writing(session)
    session.add(model)
    session.commit()
    return model


def add_dataset(session: Session, upload: BlobWriter, name: str) -> Dataset:
    """Check an uploaded dataset and keep it. Raises Invalid."""
    samples = read_samples(upload.path)
    blob = upload.commit()
    dataset = Dataset(
        id=new_id("dts"),
        name=name,
        bytes=blob.bytes,
        sha256=blob.sha256,
        created_at=now(),
        samples=samples.samples,
        tensors=[tensor.as_json() for tensor in samples.tensors],
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
