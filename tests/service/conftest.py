"""Programs and samples that jobs are made of."""

from pathlib import Path

import pytest

from tests.networks import convolutional


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convolutional().export(tmp_path_factory.mktemp("program") / "program.pt2")


@pytest.fixture(scope="session")
def few_samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convolutional(40).save_dataset(tmp_path_factory.mktemp("few") / "few.safetensors")


@pytest.fixture(scope="session")
def many_samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough to calibrate for a while, one at a time: see ONE_BY_ONE."""
    return convolutional(100_000).save_dataset(tmp_path_factory.mktemp("many") / "many.safetensors")
