"""Receives one part of an upload into blobs.

A part that says its checksum is kept as a whole or not at all. Any other is stored in pieces, each durable before the
next begins, and what came before a connection broke is kept too.
"""

from contextlib import suppress
from dataclasses import dataclass, field

from fastapi import Request

from app import metrics
from app.api.dependencies import Services
from app.api.tus import Checksum
from app.api.uploads import WRITE_BYTES, announced_length
from app.errors import ServiceError, TooLarge
from app.storage import BlobWriter
from app.uploads import service
from app.uploads.service import SALT_BYTES, UploadRow

PIECE_BYTES = 64 * 2**20
"""What a kill of this process may lose of a part, and what a slow client has to send again."""


@dataclass
class Receiver:
    """One request's part: where it began, and what came of it so far."""

    services: Services
    upload_id: str
    offset: int
    """Where the upload ends, with all that is durable."""
    waiting: bytearray = field(default_factory=bytearray)
    writer: BlobWriter | None = None

    @property
    def held(self) -> int:
        """Return how many bytes came that are not durable yet."""
        return len(self.waiting) + (self.writer.size - SALT_BYTES if self.writer else 0)

    async def take(self, chunk: bytes) -> None:
        """Write bytes once there are enough of them."""
        self.waiting += chunk
        if len(self.waiting) >= WRITE_BYTES:
            await self.services.admission.files.run(self._write)

    async def keep(self) -> None:
        """Make all that came durable, whoever goes away meanwhile. Raises ServiceError where another came first."""
        if not self.held:
            return
        await self.services.admission.files.finish(self._write)
        self.offset = await self.services.admission.writing.finish(self._commit)

    async def drop(self) -> None:
        """Discard what is not durable."""
        self.waiting.clear()
        if self.writer is not None:
            await self.services.admission.files.finish(self.writer.abort)
            self.writer = None

    def _write(self) -> None:
        if self.writer is None:
            self.writer = self.services.storage.writer()
            self.writer.write(service.salt())
        self.writer.write(bytes(self.waiting))
        self.waiting.clear()

    def _commit(self) -> int:
        assert self.writer is not None
        storage, lives = self.services.storage, self.services.upload_lives
        blob = self.writer.commit()
        self.writer = None
        try:
            with self.services.sessions() as session:
                return service.add_part(session, self.upload_id, self.offset, blob, lives)
        except ServiceError:
            service.delete_blobs(storage, [blob.sha256])
            raise


async def receive_part(request: Request, services: Services, upload: UploadRow, checksum: Checksum | None) -> int:
    """Store the body of a request behind what an upload has, and return where the upload ends. Raises ServiceError."""
    room = (upload.bytes or 0) - upload.received_bytes
    if announced_length(request) > room:
        raise _too_long(room)
    receiver, received = Receiver(services, upload.id, upload.received_bytes), 0
    hasher = checksum.hasher() if checksum else None
    async with services.admission.bodies.taken_by(request.state.body):
        try:
            async for chunk in request.stream():
                received += len(chunk)
                metrics.UPLOAD_BYTES.inc(len(chunk))
                if received > room:
                    raise _too_long(room)
                if hasher:
                    hasher.update(chunk)
                await receiver.take(chunk)
                if hasher is None and receiver.held >= PIECE_BYTES:
                    await receiver.keep()
            if checksum and hasher:
                checksum.check(hasher.digest())
            await receiver.keep()
        except (ServiceError, OSError):
            raise
        except BaseException:  # the client went away, was too slow, or this process stops
            if hasher is None:
                with suppress(ServiceError):  # who came back over another connection went on meanwhile
                    await receiver.keep()
            raise
        finally:
            await receiver.drop()
    return receiver.offset


def _too_long(room: int) -> TooLarge:
    return TooLarge(
        "upload_length_exceeded",
        f"The part has more than {room} bytes, which is all that is left of Upload-Length.",
        "Ask HEAD for Upload-Offset and Upload-Length, and send what lies between.",
    )
