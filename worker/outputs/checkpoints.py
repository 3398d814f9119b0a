"""Checkpoints: files that the child writes while it works, kept as blobs so that another attempt can continue.

The key stands for everything that decides their content. The child checks it too, and ignores a file that it can't
read. A checkpoint comes from a child with the same model, so reading it exposes nothing new.
"""

import hashlib
import json
import logging
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from app import VERSION
from app.jobs import claims
from app.jobs.claims import Claim, ClaimStatus
from app.jobs.work import SweepWork
from app.storage import Storage
from worker.heartbeat import Heartbeat
from worker.outputs.publish import output_cap
from zeropoint.schema.job import CHECKPOINT_FOLDER

SUFFIX = ".safetensors"
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
MOST_FILES = 1000
CHUNK_BYTES = 2**20
PAUSE_SECONDS = 0.5

log = logging.getLogger(__name__)


def key_of(claim: Claim) -> str:
    """Return the sha256 of everything that decides what an attempt computes on its way."""
    parts = {
        # That somebody else has the same model is nobody's business: projects share no checkpoints.
        "project": claim.project,
        "model": claim.model.sha256,
        "dataset": claim.dataset and claim.dataset.sha256,
        "recipe": claim.work.recipe.model_dump(mode="json"),
        "device": claim.device,
        "versions": [VERSION, version("torch")],
    }
    if isinstance(claim.work, SweepWork):
        evaluation = claim.evaluation_dataset and claim.evaluation_dataset.sha256
        parts |= {"sweep": claim.work.to_json(), "evaluation_dataset": evaluation}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def fetch_checkpoints(
    key: str, sessions: sessionmaker[Session], storage: Storage, folder: Path, heartbeat: Heartbeat
) -> None:
    """Copy the checkpoints of earlier attempts into the job's folder. One that can't be read is left out."""
    (folder / CHECKPOINT_FOLDER).mkdir(mode=0o700)
    for name, sha256 in _stored(key, sessions, heartbeat).items():
        try:
            storage.fetch(sha256, folder / CHECKPOINT_FOLDER / f"{name}{SUFFIX}")
        except OSError:
            log.warning("checkpoint %s can't be read, its work is done again", name)


def _stored(key: str, sessions: sessionmaker[Session], heartbeat: Heartbeat) -> dict[str, str]:
    """Return name and sha256 of the checkpoints; while the database is away, wait as long as the claim holds."""
    while heartbeat.claim_status is not ClaimStatus.LOST:
        try:
            with sessions() as session:
                return claims.checkpoints(session, key)
        except SQLAlchemyError:
            log.warning("the database does not answer, trying again in %s s", PAUSE_SECONDS)
            time.sleep(PAUSE_SECONDS)
    return {}


class CheckpointKeeper:
    """Stores the checkpoints that the child writes; `look` is called again and again while it runs.

    The child is running, and may replace any file at any time: names are opened below its folder without following
    links, and only what was opened is read.
    """

    def __init__(self, claim: Claim, key: str, storage: Storage, folder: Path, heartbeat: Heartbeat) -> None:
        self._claim = claim
        self._key = key
        self._storage = storage
        self._folder = folder / CHECKPOINT_FOLDER
        self._heartbeat = heartbeat
        self._kept: dict[str, tuple[int, int]] = {}
        self.look(keep=False)

    def look(self, *, keep: bool = True) -> None:
        """Store the files that are new or were replaced since the last look."""
        with suppress(OSError), _opened(self._folder, os.O_DIRECTORY) as folder:
            for name in sorted(os.listdir(folder))[:MOST_FILES]:
                with suppress(OSError), _opened(name, os.O_NONBLOCK, folder) as file:  # replaced meanwhile, or no room
                    self._look_at(name, file, keep=keep)

    def _look_at(self, name: str, file: int, *, keep: bool) -> None:
        status, (stem, suffix) = os.fstat(file), os.path.splitext(name)
        stamp = status.st_mtime_ns, status.st_size
        sound = suffix == SUFFIX and NAME.fullmatch(stem) and stat.S_ISREG(status.st_mode)
        if not sound or status.st_size > output_cap(self._claim) or self._kept.get(name) == stamp:
            return
        if keep:
            self._keep(stem, file)
        self._kept[name] = stamp

    def _keep(self, name: str, file: int) -> None:
        with self._storage.writer() as writer:
            while chunk := os.read(file, CHUNK_BYTES):
                writer.write(chunk)
            blob = writer.commit()
        keep = partial(claims.keep_checkpoint, claim=self._claim, key=self._key, name=name, blob=blob)
        self._heartbeat.report(keep)
        log.info("kept checkpoint %s of %s bytes", name, blob.bytes)


@contextmanager
def _opened(path: str | Path, flags: int, folder: int | None = None) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, dir_fd=folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
