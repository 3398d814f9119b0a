"""The metrics of an API process that are read when they are asked for: its places, and what all processes share."""

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString
from sqlalchemy import Engine, QueuePool

from app.api.admission import Admission, Places
from app.api.dependencies import Services
from app.api.observed import Found
from app.jobs.figures import Figures
from app.jobs.tallies import Metric as Tallied
from app.jobs.tallies import Sum, Sums
from app.metrics import OF_API, disk, gauge
from app.settings import Settings
from app.storage import folder_of


@dataclass(frozen=True, eq=False)
class ServiceMetrics(Collector):
    """Those of a process with these parts."""

    services: Services

    def collect(self) -> Iterator[Metric]:
        services = self.services
        yield from OF_API.collect()
        yield from _places(services.admission)
        yield from _connections(services.engine)
        yield gauge("zeropoint_threads", "Threads of the process.", float(threading.active_count()))
        yield from disk(_folder(services.settings))
        yield from _found(services.observed.look())


def _places(admission: Admission) -> Iterator[Metric]:
    places: dict[str, Places] = {one.name: getattr(admission, one.name) for one in fields(admission)}
    for name, words, values in (
        ("zeropoint_places", "Places for each kind of work.", {k: p.at_once for k, p in places.items()}),
        ("zeropoint_places_in_use", "Places that are taken.", {k: p.in_use for k, p in places.items()}),
        ("zeropoint_places_waiting", "Requests that wait for a place.", {k: p.waiting for k, p in places.items()}),
    ):
        yield gauge(name, words, {kind: float(number) for kind, number in values.items()}, ["kind"])


def _connections(engine: Engine) -> Iterator[Metric]:
    pool = engine.pool
    if isinstance(pool, QueuePool):
        in_use, most = float(pool.checkedout()), float(pool.size() + pool._max_overflow)
        yield gauge("zeropoint_database_connections_in_use", "Connections to the database in use.", in_use)
        yield gauge("zeropoint_database_connections", "Connections that the process may have.", most)


def _folder(settings: Settings) -> dict[str, str]:
    """Return the folder into which uploads are received."""
    if settings.storage_url.startswith("file:"):
        return {"storage": str(folder_of(settings.storage_url))}
    return {"scratch": str(settings.scratch_dir)}


def _found(found: Found) -> Iterator[Metric]:
    up = {part: float(answers) for part, answers in found.up.items()}
    yield gauge("zeropoint_up", "Whether a part that the service needs answers.", up, ["part"])
    if found.figures is not None:
        age = "Seconds since the database told what its rows say: queues, workers and counts of jobs."
        yield gauge("zeropoint_figures_age_seconds", age, found.figures.age_seconds)
        yield from _figures(found.figures.value)
        yield from _sums(found.figures.value.sums)
    if found.stored is not None:
        stored = {what: float(size) for what, size in found.stored.value.items()}
        yield gauge("zeropoint_stored_bytes", "Bytes that rows name, by what they are.", stored, ["what"])


def _figures(figures: Figures) -> Iterator[Metric]:
    layers = {layer: float(on) for layer, on in figures.sandbox.items()}
    words = "Whether a layer of the sandbox holds in every live worker."
    yield gauge("zeropoint_sandbox_layer", words, layers, ["layer"])
    jobs = {str(state): float(count) for state, count in figures.jobs.items()}
    yield gauge("zeropoint_jobs", "How many jobs are in each state.", jobs, ["state"])
    queued = {device: float(queue.jobs) for device, queue in figures.queues.items()}
    yield gauge("zeropoint_queue_jobs", "Jobs that wait, by device.", queued, ["device"])
    oldest = {device: queue.oldest_seconds for device, queue in figures.queues.items()}
    yield gauge("zeropoint_queue_oldest_seconds", "How long the oldest queued job has waited.", oldest, ["device"])
    running = {device: float(queue.running) for device, queue in figures.queues.items()}
    yield gauge("zeropoint_running_jobs", "Jobs that a worker has, by device.", running, ["device"])
    workers: dict[tuple[str, ...], float] = {}
    for (device, version), crew in figures.crews.items():
        workers |= {(device, version, "live"): crew.live, (device, version, "silent"): crew.silent}
    words = "Workers of the last day: live ones were seen in the last 30 seconds."
    yield gauge("zeropoint_workers", words, workers, ["device", "version", "state"])
    waiting = float(figures.mlflow.jobs)
    yield gauge("zeropoint_mlflow_waiting_jobs", "Jobs that MLflow has still to hear of.", waiting)
    words = "How long the first of them has waited: MLflow is away, or refuses it."
    yield gauge("zeropoint_mlflow_waiting_oldest_seconds", words, figures.mlflow.oldest_seconds)
    seen: dict[tuple[str, ...], float] = {key: crew.seen_seconds for key, crew in figures.crews.items()}
    words = "Seconds since a worker of a device and version was seen."
    yield gauge("zeropoint_workers_seen_seconds", words, seen, ["device", "version"])


def _sums(sums: Sums) -> Iterator[Metric]:
    for metric, found in sums.items():
        yield _histogram(metric, found) if metric.bounds else _counter(metric, found)


def _counter(metric: Tallied, found: Mapping[tuple[str, ...], Sum]) -> Metric:
    family = CounterMetricFamily(metric.name, metric.words, labels=metric.labels)
    for labels, one in found.items():
        family.add_metric(list(labels), one.buckets.total())
    return family


def _histogram(metric: Tallied, found: Mapping[tuple[str, ...], Sum]) -> Metric:
    family = HistogramMetricFamily(metric.name, metric.words, labels=metric.labels)
    names = [*map(floatToGoString, metric.bounds), "+Inf"]
    for labels, one in found.items():
        counts = accumulate(float(one.buckets[bucket]) for bucket in range(len(names)))
        family.add_metric(list(labels), list(zip(names, counts, strict=True)), one.total)
    return family
