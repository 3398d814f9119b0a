"""Runs migrations against the database of app.settings, or of the settings that a caller hands over.

This folder has no __init__.py: it would shadow the installed Alembic.
"""

from alembic import context

import app.accounts.models
import app.catalog.models
import app.jobs.models
import app.uploads.models
import app.webhooks.models  # noqa: F401  (their tables join the metadata)
from app.database import Base, create_engine_for
from app.settings import get_settings


def run() -> None:
    """Apply migrations in one connection."""
    settings = context.config.attributes.get("settings") or get_settings()
    engine = create_engine_for(settings)
    with engine.connect() as connection:
        context.configure(
            connection,
            target_metadata=Base.metadata,
            # SQLite can't alter a column; Alembic then copies the table.
            render_as_batch=connection.dialect.name == "sqlite",
        )
        with context.begin_transaction():
            context.run_migrations()
    engine.dispose()


run()
