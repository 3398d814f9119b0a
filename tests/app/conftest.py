from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker

from app.storage import Storage
from tests.factories import add_dataset, add_model
from tests.networks import convolutional


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real export: convolution, batch norm, linear, a dynamic batch of 1 to 1024."""
    return convolutional().export(tmp_path_factory.mktemp("archive") / "model.pt2")


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset that fits it."""
    return convolutional().save_dataset(tmp_path_factory.mktemp("samples") / "data.safetensors")


@pytest.fixture
def model_id(sessions: sessionmaker[Session], storage: Storage, archive: Path) -> str:
    with sessions() as session:
        return add_model(session, storage, archive).id


@pytest.fixture
def dataset_id(sessions: sessionmaker[Session], storage: Storage, samples: Path) -> str:
    with sessions() as session:
        return add_dataset(session, storage, samples.read_bytes()).id
