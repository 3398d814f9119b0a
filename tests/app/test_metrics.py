"""A port of its own for metrics, which ends with its process."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from app.metrics import answer_on_a_port, disk, gauge
from app.settings import Settings
from tests.exposition import parse, scrape
from tests.servers import ROOT, free_port, listens, wait_until


class One(Collector):
    """One gauge."""

    def collect(self) -> Iterator[Metric]:
        yield gauge("one", "One.", 1.0)


def test_without_the_setting_nothing_listens() -> None:
    assert Settings().metrics_port is None
    answer_on_a_port(Settings(), One())


def test_the_port_has_what_every_process_has_and_what_this_one_adds() -> None:
    port = free_port()
    answer_on_a_port(Settings(metrics_port=port), One())
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        found = scrape(client)
        compressed = client.get("/metrics", headers={"Accept-Encoding": "gzip"})
        chosen = parse(client.get("/metrics", params={"name[]": "one"}).text)
    assert found.value("one") == 1
    assert found.value("process_resident_memory_bytes") > 2**20
    assert compressed.headers["content-encoding"] == "gzip"
    assert {series.name for series in chosen.series} == {"one"}


def test_a_port_that_somebody_has_is_named() -> None:
    port = free_port()
    answer_on_a_port(Settings(metrics_port=port), One())
    with pytest.raises(SystemExit, match=f"port {port} of 127.0.0.1 for its metrics can't be listened on: .*PORT"):
        answer_on_a_port(Settings(metrics_port=port), One())


FORKS = """
import os, sys, time
from app.metrics import answer_on_a_port
from app.settings import Settings
from prometheus_client.registry import CollectorRegistry

answer_on_a_port(Settings(metrics_port=int(sys.argv[1])), CollectorRegistry())
if os.fork() == 0:
    print(os.getpid(), flush=True)
    time.sleep(600)
time.sleep(600)
"""


def _free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def test_a_pool_process_that_outlives_its_worker_does_not_keep_the_port() -> None:
    port = free_port()
    process = subprocess.Popen([sys.executable, "-c", FORKS, str(port)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    forked = int(process.stdout.readline())
    try:
        assert listens(port)
        process.kill()
        process.wait()
        wait_until(lambda: _free(port), 10)
        os.kill(forked, 0)
    finally:
        os.kill(forked, signal.SIGKILL)
        process.stdout.close()


def test_a_disk_that_can_not_be_asked_is_left_out() -> None:
    free, size = disk({"here": "/", "gone": "/nowhere/at/all"})
    assert [sample.labels for sample in (*free.samples, *size.samples)] == [{"place": "here"}] * 2
