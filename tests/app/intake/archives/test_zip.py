import stat
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import Invalid
from app.intake.archives.zip import even, read_members, stream_member
from app.intake.limits import CHUNK_BYTES
from tests.app.intake import zips
from tests.app.intake.memory import outcome_and_growth
from tests.app.intake.mutations import SETTINGS, damaged, taken_or_refused
from tests.app.intake.zips import DEFLATED, Entry, deflate, deflated_zeros

IMPORTS = """
from app.intake.archives.zip import read_members, stream_member
def refuse(detail): return Invalid("dataset_invalid", detail, "")
def read(path): return [sum(map(len, stream_member(path, item, refuse))) for item in read_members(path, 10, refuse)]
"""


def refuse(detail: str) -> Invalid:
    return Invalid("dataset_invalid", detail, "")


def read(path: Path) -> dict[str, bytes]:
    return {member.name: b"".join(stream_member(path, member, refuse)) for member in read_members(path, 10, refuse)}


def refusal_of(path: Path) -> str:
    with pytest.raises(Invalid) as refusal:
        read(path)
    return refusal.value.detail


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_are_read(tmp_path: Path, method: int) -> None:
    members = {"a": b"1" * 2 * CHUNK_BYTES, "folder/b": bytes(range(256)) * 5000, "c": b""}
    with zipfile.ZipFile(tmp_path / "x", "w", method) as target:
        target.mkdir("folder")
        for name, data in members.items():
            target.writestr(name, data)
    assert read(tmp_path / "x") == members


def test_a_zip_of_a_stream_is_read(tmp_path: Path) -> None:
    """Sizes stand behind the bytes, and again in the directory."""

    class Pipe:
        def __init__(self, path: Path) -> None:
            self.file = path.open("wb")

        def write(self, data: bytes) -> int:
            return self.file.write(data)

        def flush(self) -> None:
            self.file.flush()

    pipe = Pipe(tmp_path / "x")
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as target:  # type: ignore[call-overload]
        target.writestr("a", b"1" * 1000)
        target.writestr("b", b"2")
    pipe.file.close()
    assert read(tmp_path / "x") == {"a": b"1" * 1000, "b": b"2"}


def test_links_and_devices_are_not_regular(tmp_path: Path) -> None:
    kinds = [0, stat.S_IFREG | 0o644, stat.S_IFLNK | 0o777, stat.S_IFCHR, stat.S_IFIFO]
    path = zips.write(tmp_path / "x", *(Entry(str(kind), b"", mode=kind) for kind in kinds))
    assert [member.regular for member in read_members(path, 10, refuse)] == [True, True, False, False, False]


A = Entry("a", b"0123456789")
BROKEN = {
    "a size that is too small": ([Entry("a", deflate(b"1" * 99), DEFLATED, bytes=98, checksum=0)], "more bytes than"),
    "a size that is too large": ([Entry("a", deflate(b"1"), DEFLATED, bytes=9, checksum=zlib.crc32(b"1"))], "damaged"),
    "a checksum that differs": ([Entry("a", b"1", checksum=5)], "damaged"),
    "bytes that are no deflate stream": ([Entry("a", b"\xff" * 9, DEFLATED, bytes=9, checksum=0)], "damaged"),
    "a stream that is cut off": ([Entry("a", deflate(b"12345" * 99)[:-2], DEFLATED, bytes=5, checksum=0)], "cut off"),
    "bytes after the stream": ([Entry("a", deflate(b"1") + b"x", DEFLATED, bytes=1, checksum=0)], "after its end"),
    "a stored size that differs": ([Entry("a", b"12", bytes=1)], "another size"),
    "bzip2": ([Entry("a", b"1", 12)], "another way"),
    "a cipher": ([Entry("a", b"1", flags=1)], "encrypted"),
    "members on one another": ([A, Entry("b", b"", offset=0)], "overlap"),
    "a member in another": ([Entry("a", b"PK\3\4" + bytes(60)), Entry("b", b"", offset=31)], "overlap"),
    "more bytes than there are": ([Entry("a", b"1", packed_bytes=99, bytes=99)], "overlap or lie outside"),
    "a member where none is": ([Entry("a", b"1", offset=3)], "overlap or lie outside"),
    "a member behind the file": ([Entry("a", b"1", offset=2**31)], "overlap or lie outside"),
    "too many members": ([Entry(str(number), b"") for number in range(11)], "at most 10"),
}


@pytest.mark.parametrize(("entries", "why"), BROKEN.values(), ids=BROKEN.keys())
def test_an_archive_that_is_not_true_is_refused(tmp_path: Path, entries: list[Entry], why: str) -> None:
    assert why in refusal_of(zips.write(tmp_path / "x", *entries))


def test_more_members_than_the_end_record_counts_are_refused(tmp_path: Path) -> None:
    assert "at most 10" in refusal_of(zips.write(tmp_path / "x", *(Entry(str(n), b"") for n in range(11)), count=1))


def test_too_many_members_are_refused_from_the_end_record_alone(tmp_path: Path) -> None:
    assert "60000 members" in refusal_of(zips.write(tmp_path / "x", A, count=60_000))


def test_a_comment_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = zips.write(tmp_path / "x", A)
    path.write_bytes(path.read_bytes()[:-2] + b"\5\0")
    assert "cut off" in refusal_of(path)


@pytest.mark.parametrize("cut", [1, 22, 60])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, cut: int) -> None:
    path = zips.write(tmp_path / "x", A)
    path.write_bytes(path.read_bytes()[:-cut])
    assert "cut off" in refusal_of(path)


def test_bytes_around_the_archive_are_refused(tmp_path: Path) -> None:
    assert "something follows it" in refusal_of(zips.write(tmp_path / "x", A, comment=b"x"))
    path = zips.write(tmp_path / "x", A)
    path.write_bytes(b"x" + path.read_bytes())
    assert "not where" in refusal_of(path)


@pytest.mark.parametrize("claimed", [1000, 2**20, 2**27])
def test_a_bomb_is_stopped_at_its_claim(tmp_path: Path, claimed: int) -> None:
    """Two MiB that would be two GiB."""
    path = zips.write(tmp_path / "x", Entry("a", deflated_zeros(2048), DEFLATED, bytes=claimed, checksum=0))
    assert 2**20 < path.stat().st_size < 3 * 2**20
    outcome, growth = outcome_and_growth(IMPORTS, "read(Path(sys.argv[1]))", str(path))
    assert "unpacks to more bytes than it claims" in outcome
    assert growth < 8 * 1024


@SETTINGS
@given(pieces=st.lists(st.integers(0, 3 * CHUNK_BYTES).map(bytes), max_size=5))
def test_pieces_become_even(pieces: list[bytes]) -> None:
    chunks = list(even(iter(pieces)))
    assert b"".join(chunks) == b"".join(pieces)
    assert {len(chunk) for chunk in chunks[:-1]} <= {CHUNK_BYTES}
    assert all(0 < len(chunk) <= CHUNK_BYTES for chunk in chunks)


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("zip") / "x"
    return zips.write(path, A, Entry("b", deflate(b"1" * 500), DEFLATED)).read_bytes()


@SETTINGS
@given(data=st.data())
def test_damaged_archives_are_read_or_refused(tmp_path: Path, honest: bytes, data: st.DataObject) -> None:
    taken_or_refused(read, tmp_path / "x", data.draw(damaged(honest)))
