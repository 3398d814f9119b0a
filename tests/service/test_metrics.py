"""Every alert and every panel is answered by a running service: its API, and its worker, each on a port of its own."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import promql_parser
import pytest
from ruamel.yaml import YAML

from tests.exposition import Scrape, Series, scrape
from tests.servers import ROOT
from tests.service.processes import eventually
from tests.service.running import Running

pytestmark = pytest.mark.service

ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "zeropoint.json"
PAGE = ROOT / "docs" / "how-to" / "operate.md"
REFERENCE = ROOT / "docs" / "reference" / "metrics.md"

OF_GPUS = {"zeropoint_gpu_memory_bytes", "zeropoint_gpu_memory_used_bytes", "zeropoint_gpu_busy_ratio"}
"""Exported where there is a GPU."""
OF_PROMETHEUS = {"up"}
ADDED = {"job", "instance"}
"""Labels that Prometheus adds."""
OF_PYTHON = re.compile(r"process_\w+|python_info")


def rules() -> list[dict[str, Any]]:
    (group,) = YAML(typ="safe").load(ALERTS)["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def panels() -> list[dict[str, Any]]:
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def expressions() -> dict[str, str]:
    """Every expression of the alerts and the dashboard, by where it is."""
    of_alerts = {rule["alert"]: rule["expr"] for rule in rules()}
    of_panels = {
        f"{panel['title']}: {target['refId']}": target["expr"] for panel in panels() for target in panel["targets"]
    }
    return of_alerts | of_panels


def selectors(expression: str) -> list[promql_parser.VectorSelector]:
    found: list[promql_parser.VectorSelector] = []

    def visit(node: object) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)

    promql_parser.walk(promql_parser.parse(expression), visit)
    return found


@pytest.fixture(scope="module")
def scraped(running: Running, program: Path, few_samples: Path) -> Mapping[str, Scrape]:
    """What API and worker export after a job."""
    assert running.metrics_port is not None
    job = running.ended(running.submit(program, few_samples, {}))
    assert job["state"] == "succeeded"
    running.client.get("/readyz")
    found: dict[str, Scrape] = {}
    for number, part in enumerate(("api", "worker")):
        with httpx.Client(base_url=f"http://127.0.0.1:{running.metrics_port + number}", trust_env=False) as client:

            def ready(client: httpx.Client = client) -> Scrape | None:
                one = scrape(client)
                return one if one.value("zeropoint_reconciler_last_pass_timestamp_seconds") else None

            found[part] = eventually(ready)
    return found


@pytest.fixture(scope="module")
def series(scraped: Mapping[str, Scrape]) -> list[Series]:
    return [one for found in scraped.values() for one in found.series]


OPERATIONS: Mapping[str, Callable[[str, str], bool]] = {
    "MatchOp.Equal": lambda found, wanted: found == wanted,
    "MatchOp.NotEqual": lambda found, wanted: found != wanted,
    "MatchOp.Re": lambda found, wanted: re.fullmatch(wanted, found) is not None,
    "MatchOp.NotRe": lambda found, wanted: re.fullmatch(wanted, found) is None,
}


def chosen(selector: promql_parser.VectorSelector, series: list[Series]) -> Iterator[Series]:
    """Yield the series that a selector matches; a status of 5xx is not had for the asking."""
    wanted = [one for one in selector.matchers.matchers if one.name not in ADDED and one.value != "5.."]
    for one in series:
        if one.name == selector.name and all(
            OPERATIONS[str(matcher.op)](one.labels.get(matcher.name, ""), matcher.value) for matcher in wanted
        ):
            yield one


@pytest.mark.parametrize("where", expressions())
def test_each_series_of_an_expression_is_exported(where: str, series: list[Series]) -> None:
    found = selectors(expressions()[where])
    assert found, "it asks for nothing"
    missing = [str(one) for one in found if one.name not in OF_GPUS | OF_PROMETHEUS and not [*chosen(one, series)]]
    assert not missing


@pytest.mark.parametrize("where", expressions())
def test_labels_by_which_series_are_joined_are_theirs(where: str, series: list[Series]) -> None:
    """A sum by a label that no series has is one sum of all, and an alert that never fires."""
    names = {one.name for one in selectors(expressions()[where])} - OF_GPUS - OF_PROMETHEUS
    known = {label for one in series if one.name in names for label in one.labels} | ADDED
    listed = re.findall(r"\b(?:by|on|without) \(([\w, ]*)\)", expressions()[where])
    assert {label for labels in listed for label in labels.split(", ")} <= known


def test_alerts_say_what_is_wrong_and_name_no_label_that_is_not_there() -> None:
    for rule in rules():
        assert rule["labels"]["severity"] in ("warning", "critical"), rule["alert"]
        summary = rule["annotations"]["summary"]
        assert summary.endswith((".", "}}")), rule["alert"]
    assert len({rule["alert"] for rule in rules()}) == len(rules())


def test_the_page_has_each_alert_and_its_query() -> None:
    rows = re.findall(r"^\| `(Zeropoint\w+)` \|", PAGE.read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(rule["alert"] for rule in rules())


def _described(found: Scrape) -> Iterator[tuple[str, str, str]]:
    """Yield name, type and labels of each family."""
    endings = ("_total", "_bucket", "_count", "_sum", "_created")
    for family, kind in found.kinds.items():
        if OF_PYTHON.fullmatch(family) or (kind == "gauge" and family.endswith("_created")):
            continue
        name = f"{family}_total" if kind == "counter" else family
        names = {family, *(family + ending for ending in endings)}
        labels = {label for one in found.series if one.name in names for label in one.labels} - {"le"}
        yield f"`{name}`", kind, ", ".join(f"`{label}`" for label in sorted(labels))


def test_the_reference_page_has_what_is_exported(scraped: Mapping[str, Scrape]) -> None:
    rows = {
        name: (kind, labels, where)
        for name, kind, labels, where in re.findall(
            r"^\| (`\w+`) \| (\w+) \| ([^|]*?) ?\| (\w[^|]*) \| [^|]+ \|$", REFERENCE.read_text(), re.MULTILINE
        )
    }
    of_gpus = {f"`{name}`" for name in OF_GPUS}
    exported: dict[str, tuple[str, str, set[str]]] = {}
    for part, found in scraped.items():
        for name, kind, labels in _described(found):
            before = exported.get(name, (kind, "", set()))
            exported[name] = (kind, max(labels, before[1], key=len), before[2] | {part})
    assert set(rows) - of_gpus == set(exported)
    for name, (kind, labels, parts) in exported.items():
        assert rows[name] == (kind, labels, ", ".join(sorted(parts))), name


def test_what_a_worker_did_is_exported_by_the_api(scraped: Mapping[str, Scrape]) -> None:
    api = scraped["api"]
    phases = {"loading", "calibrating", "quantizing", "saving", "validating", "publishing"}
    seen = {one.labels["phase"] for one in api.series if one.name == "zeropoint_job_phase_seconds_count"}
    assert phases <= seen
    assert api.value("zeropoint_jobs_finished_total", outcome="succeeded") >= 1
    assert api.value("zeropoint_job_peak_memory_bytes_sum", device="cpu") > 2**26
    assert not scraped["worker"].values("zeropoint_jobs_finished_total")


def test_with_a_port_of_its_own_the_address_of_the_api_has_no_metrics(running: Running) -> None:
    assert running.client.get("/metrics").json()["code"] == "route_not_found"


def test_a_scrape_is_small_and_soon_there(running: Running, scraped: Mapping[str, Scrape]) -> None:
    assert sum(len(found.series) for found in scraped.values()) < 2500
    names = [label for found in scraped.values() for one in found.series for label in one.labels.values()]
    assert not [label for label in names if re.search(r"(job|mdl|dts|req|swp)_[0-9a-f]{8}", label)]
