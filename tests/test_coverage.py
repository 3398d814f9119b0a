"""The architectures of docs/coverage.md go through a service, a few with each commit.

`python -m scripts.coverage` wrote the page from the same attempts, with more presets and with int8 kernels.
"""

import pytest

from scripts.coverage.architecture import made
from scripts.coverage.attempt import attempt
from scripts.coverage.networks import NETWORKS
from scripts.coverage.page import names_on_page, refused_on_page
from tests.service.running import Running


def test_the_page_has_every_architecture() -> None:
    assert names_on_page() == list(NETWORKS)


def test_the_page_says_why_the_few_others_are_refused() -> None:
    assert len(NETWORKS) >= 60
    assert len(refused_on_page()) <= 3


@pytest.mark.service
@pytest.mark.sampled(100)
@pytest.mark.filterwarnings("ignore")  # of what torch and transformers say while they export
@pytest.mark.parametrize("name", NETWORKS)
def test_an_architecture_goes_the_whole_way(running: Running, name: str) -> None:
    outcome = attempt(running, name, made(name, NETWORKS[name]), ("int8-static",))
    assert bool(outcome.refused) == (name in refused_on_page()), outcome
    assert all(value is None or value > 10 for value in outcome.db.values()), outcome
