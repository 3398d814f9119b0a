"""/metrics, in Prometheus' text format."""

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse

from app.api.dependencies import SessionDep
from app.jobs.queries import count_by_state
from app.jobs.workers import live_sandbox

CONTENT_TYPE = "text/plain; version=0.0.4"

router = APIRouter(tags=["health"])


@router.get("/metrics", response_class=PlainTextResponse)
def metrics(session: SessionDep) -> PlainTextResponse:
    """Return the metrics in Prometheus' text format."""
    lines = [
        "# HELP zeropoint_sandbox_layer Whether a layer of the sandbox holds in every live worker.",
        "# TYPE zeropoint_sandbox_layer gauge",
        *(f'zeropoint_sandbox_layer{{layer="{layer}"}} {int(on)}' for layer, on in live_sandbox(session).items()),
        "# HELP zeropoint_jobs How many jobs are in each state.",
        "# TYPE zeropoint_jobs gauge",
        *(f'zeropoint_jobs{{state="{state}"}} {count}' for state, count in count_by_state(session).items()),
    ]
    return PlainTextResponse("\n".join(lines) + "\n", media_type=CONTENT_TYPE)
