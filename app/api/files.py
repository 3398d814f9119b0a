"""Stored files as responses, read in places of their own: a slow disk holds up nothing but downloads."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from fastapi.responses import FileResponse
from starlette.types import Message, Receive, Scope, Send

from app.api.admission import Places


@dataclass(frozen=True)
class PlacedFile:
    """An open file; each of its operations takes a place."""

    file: BinaryIO
    places: Places

    async def read(self, size: int) -> bytes:
        return await self.places.run(self.file.read, size)

    async def seek(self, position: int) -> int:
        return await self.places.run(self.file.seek, position)


class StoredFile(FileResponse):
    """A file as a response; refused with 503 before its first byte where the storage is too busy to open it."""

    def __init__(self, path: Path, places: Places, **options: Any) -> None:
        super().__init__(path, **options, stat_result=path.stat())
        self._file = path
        self._places = places

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the status with the first bytes: until then the answer may still be a refusal."""
        held: list[Message] = []

        async def send_together(message: Message) -> None:
            held.append(message)
            if message["type"] != "http.response.start":
                for each in held:
                    await send(each)
                held.clear()

        await super().__call__(scope, receive, send_together)

    @asynccontextmanager
    async def _open_file(self) -> AsyncIterator[PlacedFile]:  # type: ignore[override]  # only these two are called
        file: BinaryIO = await self._places.run(self._file.open, "rb")
        try:
            yield PlacedFile(file, self._places)
        finally:
            await self._places.finish(file.close)
