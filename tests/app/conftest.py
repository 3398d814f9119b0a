from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker

from app.storage import Storage
from tests.app.storages import Folder, InBucket, Kept
from tests.factories import add_dataset, add_model
from tests.networks import convolutional
from tests.s3 import TestBucket


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


@pytest.fixture(params=["folder", "s3"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Kept:
    """An empty storage of each kind."""
    if request.param == "folder":
        return Folder(tmp_path / "storage")
    return InBucket(request.getfixturevalue("bucket"), tmp_path / "scratch")


@pytest.fixture
def in_bucket(bucket: TestBucket, tmp_path: Path) -> InBucket:
    return InBucket(bucket, tmp_path / "scratch")
