"""/healthz and /readyz: they answer within a second, whatever else the process does or waits for."""

from fastapi import APIRouter

from app.api.dependencies import ServicesDep
from app.api.openapi import problems
from app.api.schemas import Liveness, Readiness
from app.errors import Fault, Unavailable

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def alive() -> Liveness:
    """Say that the process answers."""
    return Liveness()


@router.get("/readyz", responses=problems(503))
async def ready(services: ServicesDep) -> Readiness:
    """Say whether jobs can be accepted and run: database, broker, storage, and at least one live worker.

    `sandbox` names the layers that every live worker tried at its start, and whether they hold in all of them.
    """
    health = await services.probes.look()
    faults = [Fault(f"/{part}", detail) for part, detail in {**health.faults, **health.away}.items()]
    if health.faults:
        raise Unavailable(
            "not_ready",
            "; ".join(f"{fault.pointer[1:]}: {fault.detail}" for fault in faults) + ".",
            "Start or repair what errors names.",
            faults,
            retry_after=5,
        )
    return Readiness(status="ready", sandbox=dict(health.sandbox), away=dict(health.away))
