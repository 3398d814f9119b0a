"""Bring the database to the newest schema, or say in words for the person at the terminal why not."""

from alembic.util import CommandError
from sqlalchemy.exc import SQLAlchemyError

from app.cli.children import ServerError
from app.database import migrate
from app.settings import Settings


def migrate_or_refuse(settings: Settings) -> None:
    """Migrate. Raises ServerError."""
    try:
        migrate(settings)
    except (SQLAlchemyError, CommandError, OSError) as error:
        why = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise ServerError(
            f"The database can't be brought to the newest schema: {why}. Check ZEROPOINT_DATABASE_URL; a database that "
            "a newer version has used needs that version, or its own backup."
        ) from error
