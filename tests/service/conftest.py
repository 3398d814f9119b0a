"""One service on SQLite for the whole session; programs and samples that jobs are made of."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.networks import convolutional
from tests.service.running import Running, service


@pytest.fixture(scope="session")
def environment() -> Mapping[str, str]:
    """This process's environment without any setting of ours."""
    return {name: value for name, value in os.environ.items() if not name.startswith("ZEROPOINT_")}


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory, environment: Mapping[str, str]) -> Iterator[Running]:
    with service(tmp_path_factory.mktemp("service"), environment) as started:
        yield started


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
