import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given

from app.errors import Invalid
from app.intake.archives.tar import MAX_EXTENDED_BYTES, MAX_PADDING_BYTES, read_tar
from app.intake.limits import CHUNK_BYTES
from tests.app.intake.mutations import SETTINGS, damaged, taken_or_refused
from tests.app.intake.tars import header, member, tar, tar_of

FORMS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
FILES = {"a": b"1", "b": b"", "c": bytes(range(256)) * 3000, "d": b"x" * 512}
END = bytes(1024)


def refuse(detail: str) -> Invalid:
    return Invalid("checkpoint_invalid", detail, "")


def read(data: bytes, most: int = 20) -> list[tuple[str, bool, bytes]]:
    entries = read_tar(io.BytesIO(data), most, refuse)
    return [(entry.name, entry.regular, b"".join(entry.chunks)) for entry in entries]


@pytest.mark.parametrize("form", FORMS)
def test_members_are_read(form: int) -> None:
    data = tar(*(member(name, content) for name, content in FILES.items()), form=form)
    assert read(data) == [(name, True, content) for name, content in FILES.items()]


@pytest.mark.parametrize("form", FORMS)
def test_long_names_are_read(form: int) -> None:
    name = f"{'folder' * 20}/{'name' * 20}"
    assert read(tar(member(name, b"1"), member("b", b"2"), form=form)) == [(name, True, b"1"), ("b", True, b"2")]


def test_extended_headers_are_read() -> None:
    """A time with a fraction, an owner in other letters: what tar writes on many machines."""
    data = tar(member("a", b"1", mtime=1.5, uname="\u00e9"), member("\u00e9", b"2"))
    assert read(data) == [("a", True, b"1"), ("\u00e9", True, b"2")]


def test_folders_are_left_out() -> None:
    assert read(tar(member("f", type=tarfile.DIRTYPE), member("f/a", b"1"))) == [("f/a", True, b"1")]


@pytest.mark.parametrize(
    "kind", [tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"S", b"Z"]
)
def test_links_and_devices_are_not_regular(kind: bytes) -> None:
    assert read(header(b"a", 0, kind) + END) == [("a", False, b"")]


def test_a_size_of_an_extended_header_counts() -> None:
    records = b"12 size=600\n"
    data = header(b"x", 12, b"x") + records.ljust(512, b"\0") + header(b"a", 0) + b"1" * 600 + bytes(424) + END
    assert read(data) == [("a", True, b"1" * 600)]


def test_a_size_in_binary_is_read() -> None:
    data = header(b"a", 0, size_field=b"\x80" + (3).to_bytes(11, "big")) + b"123" + bytes(509) + END
    assert read(data) == [("a", True, b"123")]


BROKEN = {
    "nothing": (b"", "cut off"),
    "no end": (tar_of(FILES)[:1024], "cut off"),
    "a file that is cut off": (header(b"a", 10**6) + bytes(10**5), "cut off"),
    "a size that no machine has": (header(b"a", 0, size_field=b"\x80" + b"\xff" * 11) + END, "cut off"),
    "a negative size": (header(b"a", 0, size_field=b"\xff" * 12) + END, "can't be read"),
    "a size that is no number": (header(b"a", 0, size_field=b"0x0000000001") + END, "can't be read"),
    "a checksum that differs": (header(b"a", 0).replace(b"a", b"b", 1) + END, "checksum"),
    "another format": (b"\x7fELF" * 300, "not a tar"),
    "a name that is no text": (header(b"\xff", 0) + END, "UTF-8"),
    "a folder with bytes": (header(b"a", 5, b"5") + END, "folder"),
    "a long header": (header(b"x", MAX_EXTENDED_BYTES + 1, b"x") + bytes(2**17), "at most 65536"),
    "a long name": (header(b"x", 8**11 - 1, b"L") + bytes(2**17), "at most 65536"),
    "a header for all": (header(b"x", 8**11 - 1, b"g") + bytes(2**17), "at most 65536"),
    "records that lie": (header(b"x", 12, b"x") + b"13 size=600\n".ljust(512, b"\0") + END, "not supported"),
    "records that are none": (header(b"x", 12, b"x") + b"x" * 512 + END, "not supported"),
    "a sparse file": (header(b"x", 22, b"x") + b"22 GNU.sparse.major=1\n".ljust(512, b"\0") + END, "not supported"),
    "a size of letters": (header(b"x", 10, b"x") + b"10 size=a\n".ljust(512, b"\0") + header(b"a", 0), "can't be read"),
    "something behind the end": (header(b"a", 0) + END + b"x", "follows"),
    "very many zeros": (header(b"a", 0) + bytes(MAX_PADDING_BYTES + 1024), "follows"),
    "too many members": (header(b"a", 0) * 21 + END, "more than 20 members"),
    "too many headers": (header(b"a", 0, b"x") * 21 + END, "more than 20 members"),
}


@pytest.mark.parametrize(("data", "why"), BROKEN.values(), ids=BROKEN.keys())
def test_an_archive_that_is_not_true_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(Invalid, match=why):
        read(data)


def test_bytes_come_in_chunks() -> None:
    entry = next(read_tar(io.BytesIO(tar_of({"a": bytes(3 * CHUNK_BYTES + 1)})), 1, refuse))
    assert next(entry.chunks) == bytes(CHUNK_BYTES)


@SETTINGS
@given(data=damaged(tar(member("x" * 120, b"1" * 600, mtime=1.5), member("b", b"2"))))
def test_damaged_archives_are_read_or_refused(tmp_path: Path, data: bytes) -> None:
    taken_or_refused(lambda path: read(path.read_bytes()), tmp_path / "x", data)
