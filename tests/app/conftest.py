from pathlib import Path

import httpx
import pytest

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
def model_id(client: httpx.Client, archive: Path) -> str:
    answer = client.post("/v1/models", content=archive.read_bytes())
    model_id: str = answer.json()["id"]
    return model_id


@pytest.fixture
def dataset_id(client: httpx.Client, samples: Path) -> str:
    answer = client.post("/v1/datasets", content=samples.read_bytes())
    dataset_id: str = answer.json()["id"]
    return dataset_id
