"""One MLflow server for all tests, and a sender that tells it."""

from collections.abc import Iterator

import pytest
from sqlalchemy.orm import Session, sessionmaker

from app.settings import Settings
from app.storage import Storage
from tests.mlflow_server import MlflowServer, mlflow_server
from worker.mlflow_sender.process import CLIENT
from worker.mlflow_sender.sender import Sender
from worker.mlflow_sender.tracking import Tracking


@pytest.fixture(scope="session")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    with pytest.MonkeyPatch.context() as environment, mlflow_server(tmp_path_factory.mktemp("mlflow")) as server:
        for name, value in CLIENT.items():
            environment.setenv(name, value)
        yield server


@pytest.fixture
def settings(settings: Settings, mlflow: MlflowServer) -> Settings:
    return settings.model_copy(update={"mlflow_tracking_uri": mlflow.address})


@pytest.fixture
def sender(sessions: sessionmaker[Session], storage: Storage, mlflow: MlflowServer) -> Sender:
    return Sender(sessions, storage, Tracking(mlflow.address))
