"""HTTP's framing with bounds: what a head or the chunks of a body may cost before anything else looks at them.

h11 is written in Python: it takes 3 microseconds for a field of a head and 30 for a chunk of a body, during which no
other request is answered. A head of 64 KiB may have 13,000 fields, and a body that comes byte by byte is mostly chunks.
"""

import re

import h11

MOST_HEAD_BYTES = 2**15
MOST_FIELDS = 100
"""Of a head."""
FREE_CHUNKS = 1000
"""Of a body, whatever they hold."""
LEAST_CHUNK_BYTES = 64
"""That chunks hold on average, once there are more."""

_HEAD_END = re.compile(rb"\n\r?\n")


class TooFragmented(h11.RemoteProtocolError):
    """A head or a body is cut into more pieces than are taken. `detail` and `remedy` are for the client."""

    def __init__(self, detail: str, remedy: str) -> None:
        super().__init__(detail)
        self.detail = detail
        self.remedy = remedy


class BoundedHttp(h11.Connection):
    """h11's connection of a server, with bounds."""

    def __init__(self) -> None:
        super().__init__(h11.SERVER, MOST_HEAD_BYTES)
        self._chunks = 0
        self._bytes = 0

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """Return what comes next. Raises RemoteProtocolError; TooFragmented where a bound is exceeded."""
        if self.their_state is h11.IDLE:
            _check_head(self.trailing_data[0])
            self._chunks = self._bytes = 0
        event = super().next_event()
        if isinstance(event, h11.Data):
            self._count(event)
        return event

    def _count(self, data: h11.Data) -> None:
        self._chunks += data.chunk_end
        self._bytes += len(data.data)
        if self._chunks > FREE_CHUNKS and self._bytes < LEAST_CHUNK_BYTES * self._chunks:
            raise TooFragmented(
                f"The chunks of the body hold less than {LEAST_CHUNK_BYTES} bytes each.",
                "Send larger chunks, such as 64 KiB, or a Content-Length and no chunks.",
            )


def _check_head(received: bytes) -> None:
    end = _HEAD_END.search(received, 0, MOST_HEAD_BYTES + 1)
    head = received[: end.start() if end else MOST_HEAD_BYTES + 1]
    if len(head) > MOST_HEAD_BYTES or head.count(b"\n") > MOST_FIELDS:
        raise TooFragmented(
            f"The head of the request has more than {MOST_FIELDS} fields or {MOST_HEAD_BYTES} bytes.",
            "Send fewer header fields and a shorter address; what is long belongs into the body.",
        )
