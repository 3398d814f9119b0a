"""Answers that are kept, because what they say never changes."""

from collections import OrderedDict
from threading import Lock

KEPT_BYTES = 2**25


class Rendered:
    """The latest answers, by the id of the upload; used by many threads."""

    def __init__(self, most_bytes: int = KEPT_BYTES) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._answers: OrderedDict[str, bytes] = OrderedDict()
        self._lock = Lock()

    def get(self, upload_id: str) -> bytes | None:
        """Return an answer that is kept."""
        with self._lock:
            answer = self._answers.get(upload_id)
            if answer is not None:
                self._answers.move_to_end(upload_id)
            return answer

    def keep(self, upload_id: str, answer: bytes) -> None:
        """Keep an answer, and drop those that nobody asked for lately."""
        with self._lock:
            self._bytes += len(answer) - len(self._answers.pop(upload_id, b""))
            self._answers[upload_id] = answer
            while self._bytes > self._most_bytes:
                self._bytes -= len(self._answers.popitem(last=False)[1])
