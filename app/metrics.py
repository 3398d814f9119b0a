"""What a process counts of itself, and how it is asked for it: by /metrics, or on a port of its own.

What became of jobs is not counted here but in rows, with what it counts (`app.jobs.tallies`). So each process is asked
for itself alone: no file is shared between processes, and nothing is lost when one of them ends.
"""

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder, start_http_server
from prometheus_client.registry import Collector

from app import VERSION
from app.errors import TITLES
from app.room import room_on
from app.settings import Settings

OWN = CollectorRegistry()
"""What every process of the service has."""
OF_API = CollectorRegistry()
"""What an API process counts of itself."""

ProcessCollector(registry=OWN)
PlatformCollector(registry=OWN)
Gauge(
    "zeropoint_build_info", "1, with the version of Zeropoint and of Python.", ["version", "python"], registry=OWN
).labels(VERSION, platform.python_version()).set(1)

HTTP_SECONDS = Histogram(
    "zeropoint_http_response_seconds",
    "Seconds until an answer began, by route and method.",
    ["route", "method"],
    buckets=(0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
    registry=OF_API,
)
HTTP_REQUESTS = Counter(
    "zeropoint_http_requests", "Answers, by route, method and status.", ["route", "method", "status"], registry=OF_API
)
HTTP_AT_ONCE = Gauge("zeropoint_http_requests_in_progress", "Requests that are being worked on.", registry=OF_API)
REFUSALS = Counter("zeropoint_refusals", "Refused requests, by code.", ["code"], registry=OF_API)
UPLOAD_BYTES = Counter("zeropoint_upload_bytes", "Bytes of uploads that were received.", registry=OF_API)
GATE_SECONDS = Histogram(
    "zeropoint_gate_seconds",
    "Seconds in which uploads were checked, by what they are and how the check ended.",
    ["kind", "outcome"],
    buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300),
    registry=OF_API,
)
RECONCILER_PASSES = Counter(
    "zeropoint_reconciler_passes", "Looks for lost jobs, by how they ended.", ["outcome"], registry=OWN
)
RECONCILER_LAST = Gauge(
    "zeropoint_reconciler_last_pass_timestamp_seconds", "When this process last looked for lost jobs.", registry=OWN
)
GARBAGE_LAST = Gauge(
    "zeropoint_garbage_last_collection_timestamp_seconds", "When this process last collected garbage.", registry=OF_API
)
GARBAGE_BYTES = Counter("zeropoint_garbage_bytes", "Bytes that garbage collection removed.", registry=OF_API)
LISTENERS = Gauge("zeropoint_listeners", "Requests that listen to events.", registry=OF_API)
WEBHOOK_ATTEMPTS = Counter(
    "zeropoint_webhook_attempts", "Attempts to deliver an event, by how they ended.", ["outcome"], registry=OF_API
)

ROUTELESS = "none"
"""The route of a request to an address that there is not."""
METHODS = frozenset({"GET", "HEAD", "POST", "PATCH", "PUT", "DELETE", "OPTIONS"})

for _code in TITLES:
    REFUSALS.labels(_code)  # from the start: an increase from nothing is no increase to Prometheus
for _outcome in ("done", "database_away", "broker_away", "failed"):
    RECONCILER_PASSES.labels(_outcome)
for _outcome in ("delivered", "failed"):
    WEBHOOK_ATTEMPTS.labels(_outcome)


def method_label(method: str) -> str:
    """Return a method as a label; callers may send any word."""
    return method if method in METHODS else "other"


def disk(folders: Mapping[str, str]) -> Iterator[Metric]:
    """Yield how large the file systems of some folders are, and how much of them is free, where they can be asked."""
    rooms = {place: room for place, path in folders.items() if (room := room_on(path))}
    free, size = (
        {place: room.free for place, room in rooms.items()},
        {place: room.size for place, room in rooms.items()},
    )
    yield gauge("zeropoint_disk_free_bytes", "Free bytes of a file system.", free, ["place"])
    yield gauge("zeropoint_disk_bytes", "Size of a file system.", size, ["place"])


def gauge(
    name: str,
    words: str,
    values: float | Mapping[str, float] | Mapping[tuple[str, ...], float],
    labels: Sequence[str] = (),
) -> GaugeMetricFamily:
    """Return a gauge: one value, or one for each value of its labels."""
    if not isinstance(values, Mapping):
        return GaugeMetricFamily(name, words, value=values)
    family = GaugeMetricFamily(name, words, labels=labels)
    for key, value in values.items():
        family.add_metric([key] if isinstance(key, str) else key, value)
    return family


@dataclass(frozen=True, eq=False)
class Both(Collector):
    """What every process has, and what another collector finds."""

    more: Collector

    def collect(self) -> Iterator[Metric]:
        yield from OWN.collect()
        yield from self.more.collect()


def written(more: Collector, accept: str) -> tuple[bytes, str]:
    """Return all metrics of this process in the form that the header Accept asks for, and the name of that form."""
    encode, content_type = choose_encoder(accept)
    return encode(Both(more)), content_type


def answer_on_a_port(settings: Settings, more: Collector) -> None:
    """Answer GET /metrics from a thread, on the port that the settings name; do nothing where they name none.

    Raises SystemExit where that port can't be listened on. A process that is forked from this one keeps no copy of the
    listening socket: the port is free again once this one ends.
    """
    if settings.metrics_port is None:
        return
    registry = CollectorRegistry(support_collectors_without_names=True)
    registry.register(Both(more))
    try:
        server, _ = start_http_server(settings.metrics_port, settings.metrics_host, registry)
    except OSError as error:
        raise SystemExit(
            f"This process does not start: port {settings.metrics_port} of {settings.metrics_host} for its metrics"
            f" can't be listened on: {error.strerror}. Change ZEROPOINT_METRICS_PORT."
        ) from error
    os.register_at_fork(after_in_child=server.socket.close)
