"""The model of every job."""

from pathlib import Path

import pytest

from tests.networks import convolutional


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convolutional().export(tmp_path_factory.mktemp("history") / "model.pt2")
