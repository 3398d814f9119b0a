"""Traces: off unless asked for, continued from and by others, and never in the way."""

import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
import pytest
from sqlalchemy.orm import Session

from app import traces
from app.settings import Settings
from tests.factories import add_job, claim_one, safetensors
from tests.otlp import Receiver, receiver
from tests.servers import ROOT, free_port, wait_until

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def received() -> Iterator[Receiver]:
    with receiver() as found:
        yield found
        traces.close()


@pytest.fixture
def tracing(received: Receiver) -> Receiver:
    traces.configure(Settings(otlp_endpoint=received.address), "tested", in_background=False)
    return received


def test_while_traces_are_off_nothing_that_sends_them_is_imported() -> None:
    program = f"""
import sys, app.main, worker.main
from app import traces
from app.settings import Settings
traces.configure(Settings(), "x", in_background=True)
with traces.span("a", parent={PARENT!r}, b=1) as span:
    span.note(c=2); span.rename("d"); span.fail("e"); traces.past("f", 0.0, 1.0)
    assert traces.traceparent() is None
traces.send(); traces.close()
print(*(name for name in sys.modules if name.startswith(("opentelemetry.sdk.trace", "opentelemetry.exporter"))))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_without_the_packages_a_process_does_not_start_and_says_what_to_install() -> None:
    program = """
import sys
sys.modules["opentelemetry.exporter"] = None
from app import traces
from app.settings import Settings
traces.configure(Settings(otlp_endpoint="http://127.0.0.1:1"), "x", in_background=True)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install '.[traces]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_spans_have_their_parents_their_times_and_our_attributes(tracing: Receiver) -> None:
    began = time.monotonic()
    with traces.span("outer", parent=PARENT, kind="consumer", job_id="job_1", code=None) as outer:
        with traces.span("inner") as inner:
            inner.note(files=3, ended=True)
            time.sleep(0.05)
        assert traces.trace_id() == TRACE
        traces.past("earlier", began - 100.0, 60.0, ended=False)
        outer.rename("renamed")
        outer.fail("crashed")
    traces.send()
    first, second, third = tracing.of(TRACE)
    assert [span.name for span in (first, second, third)] == ["earlier", "renamed", "inner"]
    assert (second.parent, second.kind, second.failed) == ("b7ad6b7169203331", 5, True)
    assert second.attributes == {"zeropoint.job_id": "job_1"}
    assert first.parent == third.parent == second.span
    assert third.attributes == {"zeropoint.files": 3, "zeropoint.ended": True}
    assert third.ended - third.began >= 0.05
    assert first.ended - first.began == pytest.approx(60, abs=0.01)
    assert second.began - first.began == pytest.approx(100, abs=1)
    assert {span.service for span in tracing.spans} == {"tested"}


@pytest.mark.parametrize("parent", ["", "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "ff-" + PARENT[3:], "é"])
def test_a_parent_that_is_none_begins_a_trace(tracing: Receiver, parent: str) -> None:
    with traces.span("root", parent=parent):
        assert traces.traceparent() is not None
    traces.send()
    (root,) = tracing.spans
    assert root.parent == ""


def test_what_the_caller_does_not_want_traced_is_not(tracing: Receiver) -> None:
    with traces.span("unsampled", parent=PARENT[:-2] + "00"):
        assert traces.traceparent() is not None
        assert str(traces.traceparent()).endswith("-00")
    traces.send()
    assert not tracing.spans


def test_what_an_exception_says_is_not_sent(tracing: Receiver) -> None:
    with pytest.raises(ValueError, match="secret"), traces.span("failing"):
        raise ValueError("a secret of the user")
    traces.send()
    (span,) = tracing.spans
    assert "secret" not in repr(span)


@pytest.mark.parametrize("in_background", [False, True])
@pytest.mark.parametrize("away", ["refused", "silent"])
def test_a_receiver_that_is_away_is_not_waited_for_long(received: Receiver, away: str, in_background: bool) -> None:
    address = received.address if away == "silent" else f"http://127.0.0.1:{free_port()}"
    received.pause.set()
    traces.configure(Settings(otlp_endpoint=address), "tested", in_background=in_background)
    began = time.monotonic()
    for _ in range(3000):
        with traces.span("many"):
            pass
    assert time.monotonic() - began < 3
    began = time.monotonic()
    if not in_background:
        traces.send()
        assert time.monotonic() - began < traces.SEND_SECONDS + 1.5
    began = time.monotonic()
    traces.close()
    assert time.monotonic() - began < traces.SEND_SECONDS + 1.5
    received.pause.clear()


def test_a_request_is_a_span_under_its_route_and_the_job_keeps_its_place(
    client: httpx.Client, session: Session, tracing: Receiver
) -> None:
    answer = client.post(
        "/v1/datasets?name=secret-name", content=safetensors(x=("F32", [4, 3])), headers={"traceparent": PARENT}
    )
    assert answer.status_code == 201
    for path in ("/healthz", "/v1/jobs/job_1", "/nothing"):
        client.get(path)

    def sent() -> bool:
        traces.send()
        return len(tracing.spans) >= 4

    wait_until(sent, 10)
    spans = {span.name: span for span in tracing.spans}
    assert set(spans) == {"POST /v1/datasets", "gate", "GET /v1/jobs/{job_id}", "GET none"}
    upload, gate = spans["POST /v1/datasets"], spans["gate"]
    assert (upload.trace, upload.parent, upload.kind) == (TRACE, "b7ad6b7169203331", 2)
    assert upload.attributes["zeropoint.status"] == 201
    assert upload.attributes["zeropoint.request_id"] == answer.headers["X-Request-ID"]
    assert (gate.trace, gate.parent) == (TRACE, upload.span)
    assert spans["GET none"].trace != TRACE
    assert "secret-name" not in repr(tracing.spans)


def test_a_job_is_claimed_with_the_place_of_its_request_and_how_long_it_waited(
    session: Session, tracing: Receiver
) -> None:
    with traces.span("request", parent=PARENT):
        add_job(session)
        placed = traces.traceparent()
    add_job(session)
    first, second = claim_one(session), claim_one(session)
    assert first.trace == placed
    assert second.trace is None
    assert 0 <= first.waited_seconds < 60
