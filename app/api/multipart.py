"""One file out of a multipart/form-data body, piece by piece: only the current piece is in memory."""

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from app.errors import Malformed

FIELD = b"file"


class FormFile:
    """Feed it the body; it returns the bytes of the one part named `file`."""

    def __init__(self, content_type: str) -> None:
        boundary = parse_options_header(content_type)[1].get(b"boundary")
        if not boundary:
            raise _refused("The Content-Type names no boundary.")
        self.filename: str | None = None
        self._parts = 0
        self._ended = False
        self._header: tuple[bytearray, bytearray] = (bytearray(), bytearray())
        self._disposition: dict[bytes, bytes] = {}
        self._pieces: list[bytes] = []
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._on_part_begin,
                    "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
                    "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers_finished,
                    "on_part_data": lambda data, start, end: self._pieces.append(data[start:end]),
                    "on_end": self._on_end,
                },
            )
        except FormParserError:
            raise _refused("The boundary is too long.") from None

    def feed(self, chunk: bytes) -> bytes:
        """Return the file's bytes in this piece of the body. Raises Malformed."""
        try:
            self._parser.write(chunk)
        except FormParserError:
            raise _refused("The body is not multipart/form-data with the announced boundary.") from None
        data = b"".join(self._pieces)
        self._pieces.clear()
        return data

    def finish(self) -> None:
        """Raise Malformed unless the body was whole and had the file."""
        if not self._parts:
            raise _refused("The form has no field named file.")
        if not self._ended:
            raise _refused("The form ends before its closing boundary.")

    def _on_part_begin(self) -> None:
        self._parts += 1
        self._disposition = {}

    def _on_header_end(self) -> None:
        name, value = self._header
        if bytes(name).lower() == b"content-disposition":
            self._disposition = parse_options_header(bytes(value))[1]
        self._header = (bytearray(), bytearray())

    def _on_headers_finished(self) -> None:
        if self._disposition.get(b"name") != FIELD or self._parts > 1:
            raise _refused("The form must have one field, named file.")
        filename = self._disposition.get(b"filename")
        self.filename = filename.decode("utf-8", "replace") if filename else None

    def _on_end(self) -> None:
        self._ended = True


def _refused(detail: str) -> Malformed:
    return Malformed(
        "multipart_invalid", detail, "Send one file: curl -F file=@model.pt2, or the raw body: curl -X POST -T FILE."
    )
