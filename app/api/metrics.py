"""/metrics, in Prometheus' text format: of this process, and of what all processes share.

It answers without the database, with what that last said and how old that is.
"""

from functools import partial

from anyio import to_thread
from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

from app import metrics
from app.api.dependencies import ServicesDep
from app.api.service_metrics import ServiceMetrics

router = APIRouter(tags=["health"])


@router.get("/metrics", response_class=PlainTextResponse)
async def read_metrics(request: Request, services: ServicesDep) -> Response:
    """Return the metrics in Prometheus' text format, or as OpenMetrics where the caller asks for that.

    With `ZEROPOINT_METRICS_PORT` they are there instead.
    """
    write = partial(metrics.written, ServiceMetrics(services), request.headers.get("accept", ""))
    body, content_type = await to_thread.run_sync(write, limiter=services.observed.threads)
    return Response(body, headers={"Content-Type": content_type})
