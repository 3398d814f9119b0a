"""Uploads of the same bytes, deletes, submits and garbage collection at once: what a row names is always there.

Between storms a day passes: files are made old and most rows are deleted. So every upload of a storm races a collection
that has a right to its old blob, and the grace is as long as it really is.
"""

import os
import random
import secrets
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import httpx
import pytest
from sqlalchemy import delete, select
from sqlalchemy.orm import Session, sessionmaker

from app.catalog.models import Model
from app.database import begin_writing, clock, new_id
from app.jobs.retention import collect_garbage
from app.settings import Settings
from app.storage import Blob, Storage

SECONDS = 4
CONTENTS = [f"model {number}".encode() * 100 for number in range(60)]
WEIGHT_ONLY = {"activations": None}


class Service:
    """What users and garbage collectors do, each step as the service does it."""

    def __init__(self, client: httpx.Client, sessions: sessionmaker[Session], storage: Storage, settings: Settings):
        self.client, self.sessions, self.storage, self.settings = client, sessions, storage, settings
        self.removed = 0

    def upload(self, data: bytes) -> None:
        """An upload behind the gate, which would take most of the time."""
        with self.storage.writer() as writer:
            writer.write(data)
            blob = writer.commit()
        with self.sessions() as session:
            begin_writing(session)
            session.add(model_of(session, blob))
            session.commit()

    def upload_many(self, count: int) -> None:
        for data in random.sample(CONTENTS, count):
            self.upload(data)

    def delete_many(self, count: int) -> None:
        for model_id in random.choices([*self.models()], k=count):
            assert self.client.delete(f"/v1/models/{model_id}").status_code in (204, 404, 409)

    def submit_many(self, scratch: Path) -> None:
        """Submit jobs, fetch what each needs as a worker would, while the job lives, and cancel it."""
        for model_id, sha256 in self.models().items():
            answer = self.client.post("/v1/jobs", json={"model": model_id, "recipe": WEIGHT_ONLY})
            if answer.status_code == 404:
                continue
            assert answer.status_code == 202
            for _ in range(3):
                self.fetch(sha256, scratch)
            assert self.client.post(f"/v1/jobs/{answer.json()['id']}/cancel").status_code == 202

    def collect_until(self, done: Event) -> None:
        while not done.is_set():
            self.removed += collect_garbage(self.sessions, self.storage, self.settings).removed.blobs

    def let_a_day_pass(self) -> None:
        """Most models are deleted, and everything gets old."""
        with self.sessions() as session:
            kept = select(Model.id).order_by(Model.id).limit(8)
            session.execute(delete(Model).where(Model.id.not_in(kept.scalar_subquery())))
            session.commit()
        past = time.time() - 48 * 3600
        for path in Path(self.settings.storage_url.removeprefix("file:")).glob("blobs/*/*/*"):
            os.utime(path, (past, past))

    def check(self, scratch: Path) -> None:
        for sha256 in set(self.models().values()):
            self.fetch(sha256, scratch)

    def fetch(self, sha256: str, scratch: Path) -> None:
        """Copy a blob; raises OSError unless it is there and hashes right."""
        copy = scratch / f"copy-{secrets.token_hex(8)}"
        self.storage.fetch(sha256, copy)
        copy.unlink()

    def models(self) -> dict[str, str]:
        with self.sessions() as session:
            return {row.id: row.stored_sha256 for row in session.scalars(select(Model))}


def model_of(session: Session, blob: Blob) -> Model:
    return Model(
        id=new_id("mdl", clock(session)),
        name=new_id("model", clock(session)),
        format="pt2",
        bytes=blob.bytes,
        sha256=blob.sha256,
        stored_bytes=blob.bytes,
        stored_sha256=blob.sha256,
        created_at=clock(session),
        inputs=[],
        layers=[],
        parameters=0,
    )


@contextmanager
def collected_meanwhile(service: Service, pool: ThreadPoolExecutor) -> Iterator[None]:
    done = Event()
    collections = [pool.submit(service.collect_until, done) for _ in range(2)]
    try:
        yield
    finally:
        done.set()
        all_of(collections)


def all_of(futures: list[Future[None]]) -> None:
    for future in futures:
        future.result()


@pytest.fixture
def service(client: httpx.Client, sessions: sessionmaker[Session], storage: Storage, settings: Settings) -> Service:
    return Service(client, sessions, storage, settings)


@pytest.mark.sampled(2)
def test_nothing_in_use_is_removed_in_a_storm(service: Service, tmp_path: Path) -> None:
    service.upload_many(len(CONTENTS))
    end = time.monotonic() + SECONDS
    with ThreadPoolExecutor(8) as pool:
        while time.monotonic() < end:
            service.let_a_day_pass()
            with collected_meanwhile(service, pool):
                storm = [pool.submit(service.upload_many, 30) for _ in range(3)]
                storm += [pool.submit(service.submit_many, tmp_path), pool.submit(service.delete_many, 20)]
                all_of(storm)
            service.check(tmp_path)
    assert service.removed > 0
