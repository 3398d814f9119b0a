"""/metrics, as Prometheus reads it."""

import httpx
from sqlalchemy.orm import Session

from app.jobs import service


def test_the_layers_of_the_sandbox_are_gauges(client: httpx.Client, session: Session) -> None:
    service.announce_worker(session, "w", "cpu", {"landlock": True, "network_namespace": False})
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert answer.text.splitlines()[-2:] == [
        'zeropoint_sandbox_layer{layer="landlock"} 1',
        'zeropoint_sandbox_layer{layer="network_namespace"} 0',
    ]
