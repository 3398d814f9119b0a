"""The application of the API process, which `app.api.server` serves."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from app import VERSION, traces
from app.accounts.oidc import provider_of
from app.accounts.scope import create_scoped_sessions
from app.api import (
    artifacts,
    audit,
    datasets,
    errors,
    events,
    health,
    imports,
    jobs,
    keys,
    metrics,
    models,
    presets,
    resumable_uploads,
    sweeps,
    usage,
    webhooks,
)
from app.api.addresses import Addresses, Prefix
from app.api.admission import admission_for
from app.api.checks import Checks
from app.api.dependencies import Services
from app.api.feed import Feed
from app.api.identity import Identity
from app.api.observed import observed_for
from app.api.openapi import publish, serve_contract
from app.api.pace import Pace
from app.api.probes import probes_for
from app.api.rates import Rates
from app.api.request_id import RequestId
from app.api.stopping import Stopping
from app.api.tus import Tus
from app.api.waits import Waits
from app.database import OF_REQUESTS, create_engine_for, create_sessions
from app.jobs.queue import create_celery
from app.jobs.reconciler import reconciling
from app.jobs.retention import collecting_garbage
from app.memory import plan_memory
from app.settings import Settings, get_settings, words_of
from app.storage import open_storage
from app.webhooks.sender import sending

RESOURCES = (
    *(models, datasets, resumable_uploads, imports, jobs, events, sweeps, artifacts, presets),
    *(keys, audit, usage, webhooks, health, metrics),
)

CORS: dict[str, Any] = {
    "allow_methods": ["GET", "HEAD", "POST", "PATCH", "DELETE"],
    "allow_headers": ["*"],
    "expose_headers": [
        *("Location", "ETag", "Repr-Digest", "X-Request-ID", "Retry-After", "Preference-Applied"),
        *("Upload-Offset", "Upload-Length", "Upload-Metadata", "Upload-Expires", "Upload-Result"),
        *("Tus-Resumable", "Tus-Version", "Tus-Extension", "Tus-Max-Size", "Tus-Checksum-Algorithm"),
    ],
}
"""What pages of other origins may do: all that the API does, without cookies, which it has none of."""


def create_app(settings: Settings | None = None, *, reconciles: bool = True) -> FastAPI:
    """Return the application. It connects to nothing, and looks for lost jobs, only once it is started."""
    settings = settings or get_settings()
    app = FastAPI(
        title="Zeropoint",
        version=VERSION,
        summary="Post-training static quantization of PyTorch models.",
        # No docs pages: they would load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        openapi_url=None,  # `serve_contract` offers it
        redirect_slashes=False,
        # Generated clients name their functions so.
        generate_unique_id_function=lambda route: route.name,
        lifespan=_reconciling if reconciles else _alone,
    )
    app.state.services = create_services(settings)
    app.state.stopping = Stopping()
    app.state.checks = Checks()
    routers = [module.router for module in RESOURCES if module is not metrics or settings.metrics_port is None]
    for router in routers:
        app.include_router(router)
    serve_contract(app)
    app.add_middleware(Identity)
    app.add_middleware(Addresses, routes=[*app.routes, *(route for router in routers for route in router.routes)])
    app.add_middleware(Tus)
    app.add_middleware(Pace)
    app.add_middleware(RequestId)
    if origins := words_of(settings.cors_origins):
        app.add_middleware(CORSMiddleware, allow_origins=origins, **CORS)
    if trusted := words_of(settings.forwarded_allow_ips):
        app.add_middleware(ProxyHeadersMiddleware, trusted_hosts=trusted)
    app.add_middleware(Prefix, prefix=settings.root_path)
    errors.install(app)
    publish(app)
    return app


def create_services(settings: Settings) -> Services:
    """Return the parts of an API process."""
    plan = plan_memory(settings)
    settings = settings.model_copy(update={"gates": plan.gates, "gate_memory_bytes": plan.gate_bytes})
    engine = create_engine_for(settings, OF_REQUESTS, settings.database_connections)
    provider = provider_of(settings)
    sessions, storage, celery = create_sessions(engine), open_storage(settings), create_celery(settings)
    return Services(
        settings=settings,
        engine=engine,
        sessions=create_scoped_sessions(engine),
        all_projects=sessions,
        storage=storage,
        celery=celery,
        provider=provider,
        admission=admission_for(settings, plan.gates),
        probes=probes_for(engine, sessions, storage, celery, provider),
        observed=observed_for(engine, sessions, storage, celery, provider),
        waits=Waits(sessions, settings.waits),
        feed=Feed(sessions, settings.listeners),
        rates=Rates(settings),
    )


@asynccontextmanager
async def _alone(app: FastAPI) -> AsyncIterator[None]:
    yield
    services: Services = app.state.services
    await app.state.checks.close()
    services.engine.dispose()
    services.celery.close()
    traces.close()


@asynccontextmanager
async def _reconciling(app: FastAPI) -> AsyncIterator[None]:
    services: Services = app.state.services
    async with _alone(app):
        with (
            reconciling(services.settings, services.celery) as wake,
            collecting_garbage(services.settings),
            sending(services.settings),
        ):
            app.state.services = replace(services, wake=wake)
            async with app.state.checks.looking(lambda: app.state.services):
                yield
