"""/metrics, as Prometheus reads it."""

import httpx
from sqlalchemy.orm import Session

from app.jobs import workers
from tests.factories import add_job, claim_one


def test_the_layers_of_the_sandbox_are_gauges(client: httpx.Client, session: Session) -> None:
    workers.announce_worker(session, "w", "cpu", {"landlock": True, "network_namespace": False})
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert [line for line in answer.text.splitlines() if line.startswith("zeropoint_sandbox")] == [
        'zeropoint_sandbox_layer{layer="landlock"} 1',
        'zeropoint_sandbox_layer{layer="network_namespace"} 0',
    ]


def test_jobs_are_counted_by_state(client: httpx.Client, session: Session) -> None:
    for _ in range(2):
        add_job(session)
    claim_one(session)
    counted = {line for line in client.get("/metrics").text.splitlines() if line.startswith("zeropoint_jobs{")}
    assert {'zeropoint_jobs{state="queued"} 1', 'zeropoint_jobs{state="running"} 1'} <= counted
    assert 'zeropoint_jobs{state="failed"} 0' in counted
