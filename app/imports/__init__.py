"""Imports: models and datasets that the service fetches from an address, where the operator allows it."""

from app.imports.fetching import fetch
from app.imports.rules import SOURCE_AWAY, ImportRules, rules_of
from app.imports.sources import Source, source_of

__all__ = ["SOURCE_AWAY", "ImportRules", "Source", "fetch", "rules_of", "source_of"]
