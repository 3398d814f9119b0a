"""/metrics, in Prometheus' text format."""

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse

from app.api.admission import database_busy
from app.api.dependencies import ServicesDep
from app.api.openapi import problems
from app.api.probes import Late

CONTENT_TYPE = "text/plain; version=0.0.4"

router = APIRouter(tags=["health"])


@router.get("/metrics", response_class=PlainTextResponse, responses=problems(503))
async def metrics(services: ServicesDep) -> PlainTextResponse:
    """Return the metrics in Prometheus' text format."""
    try:
        figures = await services.probes.figures.found()
    except Late:
        raise database_busy() from None
    lines = [
        "# HELP zeropoint_sandbox_layer Whether a layer of the sandbox holds in every live worker.",
        "# TYPE zeropoint_sandbox_layer gauge",
        *(f'zeropoint_sandbox_layer{{layer="{layer}"}} {int(on)}' for layer, on in figures.sandbox.items()),
        "# HELP zeropoint_jobs How many jobs are in each state.",
        "# TYPE zeropoint_jobs gauge",
        *(f'zeropoint_jobs{{state="{state}"}} {count}' for state, count in figures.jobs.items()),
    ]
    return PlainTextResponse("\n".join(lines) + "\n", media_type=CONTENT_TYPE)
