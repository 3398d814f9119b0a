"""The API of the chaos run: `python -m app.api.server --app tests.chaos.api:create_app`."""

from fastapi import FastAPI

from app import main
from tests.chaos import mutants


def create_app() -> FastAPI:
    """The product's own, with patience, and perhaps broken."""
    mutants.prepare()
    return main.create_app()
