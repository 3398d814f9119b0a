"""What a service exports, as Prometheus reads it."""

from collections.abc import Mapping
from dataclasses import dataclass

import httpx
from prometheus_client.parser import text_string_to_metric_families


@dataclass(frozen=True)
class Series:
    """One line: its name, its labels, its value."""

    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True)
class Scrape:
    """All families by their names, with type and names of labels, and all series."""

    kinds: Mapping[str, str]
    series: tuple[Series, ...]

    def values(self, name: str) -> dict[tuple[str, ...], float]:
        """Return the values of a name by the values of its labels, in the order of their names."""
        found = [one for one in self.series if one.name == name]
        return {tuple(value for _, value in sorted(one.labels.items())): one.value for one in found}

    def value(self, name: str, **labels: str) -> float:
        """Return the value of one series, 0 where there is none."""
        return sum(one.value for one in self.series if one.name == name and one.labels.items() >= labels.items())


def parse(text: str) -> Scrape:
    """Read Prometheus' text format. Raises ValueError where it is none."""
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families), "a family is there twice"
    samples = [sample for family in families for sample in family.samples]
    return Scrape(
        {family.name: family.type for family in families},
        tuple(Series(sample.name, sample.labels, sample.value) for sample in samples),
    )


def scrape(client: httpx.Client, address: str = "/metrics") -> Scrape:
    """Ask a service for its metrics."""
    return parse(client.get(address).raise_for_status().text)
