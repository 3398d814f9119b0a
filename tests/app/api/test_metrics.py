"""/metrics, as Prometheus reads it: of this process, and of what all processes share."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from datetime import timedelta

import httpx
import pytest
from sqlalchemy import Engine, text, update
from sqlalchemy.orm import Session

from app import VERSION
from app.api.admission import Admission
from app.api.dependencies import Services
from app.api.probes import ANSWER_SECONDS
from app.database import Base, clock
from app.jobs import endings, service, workers
from app.jobs.models import Job, Worker
from tests.exposition import Scrape, scrape
from tests.factories import add_job, claim_one, safetensors
from tests.servers import wait_until
from zeropoint.schema.failures import describe_failure


def fresh(client: httpx.Client) -> Scrape:
    """What is exported of a look that began after this call, however slow the machine is."""
    began = time.monotonic()
    while True:
        found = scrape(client)
        (age,) = found.values("zeropoint_figures_age_seconds").values() or (float("inf"),)
        if age < time.monotonic() - began and found.values("zeropoint_stored_bytes"):
            return found
        time.sleep(0.05)


def test_the_layers_of_the_sandbox_are_gauges(client: httpx.Client, session: Session) -> None:
    workers.announce_worker(session, "w", "cpu", {"landlock": True, "network_namespace": False})
    fresh(client)
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert [line for line in answer.text.splitlines() if line.startswith("zeropoint_sandbox")] == [
        'zeropoint_sandbox_layer{layer="landlock"} 1.0',
        'zeropoint_sandbox_layer{layer="network_namespace"} 0.0',
    ]


def test_who_asks_for_openmetrics_gets_it(client: httpx.Client) -> None:
    answer = client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


def test_jobs_are_counted_by_state_and_by_queue(client: httpx.Client, session: Session) -> None:
    for _ in range(3):
        add_job(session)
    claim_one(session)
    oldest = session.query(Job).filter_by(state="queued").order_by(Job.id).first()
    assert oldest is not None
    oldest.queued_at = clock(session) - timedelta(seconds=700)
    session.commit()
    found = fresh(client)
    assert found.value("zeropoint_jobs", state="queued") == 2
    assert found.value("zeropoint_jobs", state="running") == 1
    assert found.values("zeropoint_queue_jobs") == {("cpu",): 2, ("cuda",): 0}
    assert found.values("zeropoint_running_jobs") == {("cpu",): 1, ("cuda",): 0}
    assert found.value("zeropoint_queue_oldest_seconds", device="cpu") == pytest.approx(700, abs=60)
    assert found.value("zeropoint_queue_oldest_seconds", device="cuda") == 0


def test_workers_are_counted_by_device_version_and_whether_they_live(client: httpx.Client, session: Session) -> None:
    for name in ("one", "two", "three"):
        workers.announce_worker(session, name, "cpu", {})
    session.execute(update(Worker).where(Worker.name == "two").values(seen_at=clock(session) - timedelta(minutes=5)))
    old = {"version": "0.1", "seen_at": clock(session) - timedelta(minutes=9)}
    session.execute(update(Worker).where(Worker.name == "three").values(old))
    session.commit()
    found = fresh(client)
    assert found.values("zeropoint_workers") == {
        ("cpu", "live", VERSION): 1,
        ("cpu", "silent", VERSION): 1,
        ("cpu", "live", "0.1"): 0,
        ("cpu", "silent", "0.1"): 1,
    }
    assert found.value("zeropoint_workers_seen_seconds", version="0.1") == pytest.approx(540, abs=60)


def test_ends_and_times_of_jobs_are_exported(client: httpx.Client, session: Session) -> None:
    for _ in range(3):
        add_job(session)
    endings.succeed(session, claim_one(session), "passed", (), endings.Measured(2**30, {"loading": 2.0}))
    endings.fail(session, claim_one(session), describe_failure("out_of_memory"))
    endings.release(session, claim_one(session))
    found = fresh(client)
    ended = {key: value for key, value in found.values("zeropoint_jobs_finished_total").items() if value}
    assert ended == {("none", "none", "cpu", "succeeded"): 1, ("resource", "out_of_memory", "cpu", "failed"): 1}
    assert found.value("zeropoint_job_retries_total", reason="released") == 1
    assert found.value("zeropoint_job_wait_seconds_count", device="cpu") == 3
    assert found.value("zeropoint_job_phase_seconds_sum", phase="loading", format="pt2", device="cpu") == 2
    assert found.value("zeropoint_job_phase_seconds_bucket", phase="loading", le="1.0") == 0
    assert found.value("zeropoint_job_phase_seconds_bucket", phase="loading", le="5.0") == 1
    assert found.value("zeropoint_job_peak_memory_bytes_count", device="cpu") == 1


def test_each_way_in_which_a_job_may_end_is_there_from_the_start(client: httpx.Client) -> None:
    """An increase from nothing is none to Prometheus: the first failure of a kind would be missed."""
    found = fresh(client)
    assert found.values("zeropoint_jobs_finished_total")["transient", "worker_lost", "cuda", "failed"] == 0
    assert found.values("zeropoint_refusals_total")["storage_full",] >= 0
    assert len(found.values("zeropoint_jobs_finished_total")) > 80


def test_requests_are_counted_by_route_method_and_status(client: httpx.Client) -> None:
    """By the template of the route: no id and no word of a caller becomes a label."""
    asked = (
        ("GET", "/v1/jobs/job_1", ("/v1/jobs/{job_id}", "GET", "404")),
        ("HEAD", "/v1/jobs/job_2", ("/v1/jobs/{job_id}", "HEAD", "404")),
        ("GET", "/v1/presets", ("/v1/presets", "GET", "200")),
        ("PUT", "/v1/models", ("/v1/models", "PUT", "405")),
        ("BREW", "/v1/models", ("/v1/models", "other", "405")),
        ("GET", "/v1/models/%2e%2e/secret", ("none", "GET", "404")),
        ("GET", "/nothing/here", ("none", "GET", "404")),
    )
    before = scrape(client)
    for method, path, _ in asked:
        client.request(method, path)
    after = scrape(client)
    for _, path, (route, method, status) in asked:
        name, labels = "zeropoint_http_requests_total", {"route": route, "method": method, "status": status}
        gained = after.value(name, **labels) - before.value(name, **labels)
        assert gained == sum(label == (route, method, status) for *_, label in asked), path
        assert after.value("zeropoint_http_response_seconds_count", route=route, method=method) > 0
    assert after.value("zeropoint_http_requests_in_progress") >= 1
    name, codes = "zeropoint_refusals_total", ("job_not_found", "method_not_allowed", "route_not_found")
    refused = [(after.value(name, code=code) - before.value(name, code=code)) for code in codes]
    assert refused == [2, 2, 2]


def test_uploads_are_counted_in_bytes_and_gates_in_seconds(client: httpx.Client) -> None:
    before = scrape(client)
    good, bad = safetensors(x=("F32", [4, 3])), b"no tensors at all"
    for data in (good, bad):
        client.post("/v1/datasets", content=data)
    after = scrape(client)
    name = "zeropoint_upload_bytes_total"
    assert after.value(name) - before.value(name) == len(good) + len(bad)
    for outcome in ("passed", "refused"):
        labels = {"kind": "dataset", "outcome": outcome}
        name = "zeropoint_gate_seconds_count"
        assert after.value(name, **labels) - before.value(name, **labels) == 1


def test_places_that_are_taken_and_who_waits_are_seen(client: httpx.Client) -> None:
    services: Services = client.app.state.services  # type: ignore[attr-defined]
    services.admission.gates.in_use, services.admission.gates.waiting = 1, 3
    found = scrape(client)
    assert found.value("zeropoint_places_in_use", kind="gates") == 1
    assert found.value("zeropoint_places_waiting", kind="gates") == 3
    assert set(found.values("zeropoint_places")) == {(field.name,) for field in fields(Admission)}
    assert found.value("zeropoint_database_connections") == services.settings.database_connections + 4
    assert 0 < found.value("zeropoint_disk_free_bytes", place="storage") < found.value("zeropoint_disk_bytes")
    assert found.value("zeropoint_threads") > 1
    assert found.value("process_resident_memory_bytes") > 2**20
    assert found.value("zeropoint_build_info", version=VERSION) == 1


@contextmanager
def every_lock_held(engine: Engine) -> Iterator[None]:
    """Nobody reads or writes: PostgreSQL's tables are locked, SQLite's file is in exclusive use."""
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            connection.execution_options(sqlite_begin="PRAGMA locking_mode = EXCLUSIVE")
            connection.exec_driver_sql("BEGIN EXCLUSIVE")
        else:
            tables = ", ".join(table.name for table in Base.metadata.sorted_tables)
            connection.execute(text(f"LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE"))
        yield
        connection.rollback()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_without_the_database_the_last_values_are_given_with_their_age(
    client: httpx.Client, engine: Engine, session: Session
) -> None:
    add_job(session)
    session.rollback()
    assert fresh(client).value("zeropoint_queue_jobs", device="cpu") == 1
    with every_lock_held(engine):
        time.sleep(1.05)
        began = time.monotonic()
        found = scrape(client)
        assert time.monotonic() - began < ANSWER_SECONDS + 3
        assert found.value("zeropoint_queue_jobs", device="cpu") == 1
        assert found.value("zeropoint_figures_age_seconds") > 1
        assert found.value("zeropoint_up", part="broker") == 1
        assert found.value("process_resident_memory_bytes") > 0
    fresh(client)


def test_parts_that_are_away_are_down(client: httpx.Client, engine: Engine) -> None:
    def up() -> dict[tuple[str, ...], float]:
        return scrape(client).values("zeropoint_up")

    wait_until(lambda: up() == {("database",): 1, ("broker",): 1, ("storage",): 1})
    services: Services = client.app.state.services  # type: ignore[attr-defined]
    services.celery.conf.update(broker_url="redis://127.0.0.1:1/0")
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE alembic_version"))
    wait_until(lambda: up() == {("database",): 0, ("broker",): 0, ("storage",): 1})


def test_cancelled_while_queued_is_an_end_too(client: httpx.Client, session: Session) -> None:
    service.request_cancel(session, add_job(session).id)
    assert fresh(client).value("zeropoint_jobs_finished_total", outcome="cancelled", device="cpu") == 1


def test_a_hundred_scrapes_at_once_cost_one_look(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    services: Services = client.app.state.services  # type: ignore[attr-defined]
    looks: list[float] = []
    check = services.observed.figures._check

    def counted() -> object:
        looks.append(time.monotonic())
        return check()

    monkeypatch.setattr(services.observed.figures, "_check", counted)
    threads = [threading.Thread(target=client.get, args=("/metrics",)) for _ in range(30)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(looks) <= 1 + (time.monotonic() - began) / 1.0


def test_the_bytes_that_rows_name_are_summed(client: httpx.Client) -> None:
    client.post("/v1/datasets", content=safetensors(x=("F32", [1000, 3])))
    assert fresh(client).value("zeropoint_stored_bytes", what="datasets") > 12_000
