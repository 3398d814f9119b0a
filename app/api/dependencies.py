"""Dependencies of endpoints: the parts of the process, and a session that ends before the response is sent."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field, fields
from datetime import timedelta
from typing import Annotated

from celery import Celery
from fastapi import Depends, Path, Request
from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker

from app.accounts.oidc import Provider
from app.accounts.scope import ScopedSession
from app.api.admission import Admission
from app.api.feed import Feed
from app.api.observed import Observed
from app.api.probes import Probes
from app.api.rates import Rates
from app.api.rendered import Rendered
from app.api.requests import SEEN_PATTERN, WORD_PATTERN
from app.api.waits import Waits
from app.intake.limits import Limits
from app.jobs.reconciler import Wake
from app.jobs.submission import MostSeconds
from app.settings import Settings
from app.storage import Storage


@dataclass(frozen=True)
class Services:
    """The parts that a process is made of."""

    settings: Settings
    engine: Engine
    sessions: sessionmaker[ScopedSession]
    """Of requests: they see what the caller's project owns."""
    all_projects: sessionmaker[Session]
    """Of work that nobody called, such as health checks."""
    storage: Storage
    celery: Celery
    provider: Provider | None
    admission: Admission
    probes: Probes
    observed: Observed
    waits: Waits
    feed: Feed
    rates: Rates
    rendered: Rendered = field(default_factory=Rendered)
    wake: Wake = lambda: None
    """Asks the reconciler to look now; does nothing where none runs."""

    @property
    def limits(self) -> Limits:
        """Return how large an upload may be."""
        return Limits(**{field.name: getattr(self.settings, f"gate_{field.name}") for field in fields(Limits)})

    @property
    def upload_lives(self) -> timedelta:
        """Return how long an upload waits for its next part."""
        return timedelta(seconds=self.settings.upload_seconds)

    @property
    def most_seconds(self) -> MostSeconds:
        """Return how long a job may wait and run."""
        return MostSeconds(self.settings.job_pending_seconds, self.settings.job_seconds)


async def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(_services)]


async def _session(request: Request, services: ServicesDep) -> AsyncIterator[Session]:
    """Yield a session, in one of the places that readers or writers of the database have."""
    admission = services.admission
    places = admission.reading if request.method in ("GET", "HEAD") else admission.writing
    async with places.taken():
        session = services.sessions()
        try:
            yield session
        finally:
            await places.finish(session.close)


# The default scope would keep the transaction open while a download streams.
SessionDep = Annotated[Session, Depends(_session, scope="function")]

PathName = Annotated[str, Path(max_length=255, pattern=WORD_PATTERN)]
UploadName = Annotated[str, Path(max_length=300, pattern=SEEN_PATTERN, description="Its id, or name@version.")]
