"""Uploads that find no room: on a real small file system, under a real limit, at every step."""

import io
import os
import resource
import socket
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy
import pytest

from app.intake.huggingface.unpack import unpack_folder
from app.room import RESERVE_BYTES
from app.settings import Settings
from tests.factories import safetensors
from tests.servers import api_process, wait_until
from tests.tus import begin, metadata, offset_of, samples_of, send

MIB = 2**20
SMALL = safetensors(x=("F32", [4, 3]))
LIMIT = 4 * MIB
FREE = 8 * MIB


def large(size: int) -> Iterator[bytes]:
    """A dataset of this size, and no announcement of it."""
    data = safetensors(x=("U8", [1, size]))
    yield from (data[start : start + 2**16] for start in range(0, len(data), 2**16))


def packed(size: int) -> bytes:
    """A dataset of a few KiB that is this large when the gate has written it anew."""
    target = io.BytesIO()
    numpy.savez_compressed(target, x=numpy.zeros((1, size), numpy.uint8))
    return target.getvalue()


def zeros(path: Path, size: int) -> Path:
    """A Hugging Face folder of a few KiB whose weights are this large."""
    with tarfile.open(path, "w:gz") as target:
        for name, data in {"config.json": b"{}", "model.safetensors": bytes(size)}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            target.addfile(info, io.BytesIO(data))
    return path


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*/**/*") if path.is_file()]


def refused(answer: httpx.Response) -> bool:
    return (answer.status_code, answer.json()["code"]) == (507, "storage_full")


def goes_on(client: httpx.Client, folder: Path) -> None:
    """Nothing stayed, and what has room is taken."""
    assert leftovers(folder) == []
    assert client.get("/v1/datasets").json()["items"] == []
    assert client.post("/v1/datasets", content=SMALL).status_code == 201
    assert len(leftovers(folder)) == 1


Disk = Callable[[str], Path]
Serve = Callable[[Path], httpx.Client]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Mounts a file system in memory with these options."""
    mounted: list[Path] = []

    def mount(options: str) -> Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("no file system may be mounted here")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def serve(served_with: Callable[..., httpx.Client]) -> Serve:
    """The API with its storage in a folder."""
    return lambda folder: served_with(storage_url=f"file:{folder}")


@pytest.fixture
def small(disk: Disk) -> Path:
    """8 MiB besides what is left to rows and logs."""
    return disk(f"size={RESERVE_BYTES + FREE}")


def test_an_upload_that_can_not_fit_is_refused_before_its_first_byte(serve: Serve, small: Path) -> None:
    client = serve(small)
    with socket.create_connection(("127.0.0.1", client.base_url.port or 0), timeout=10) as connection:
        head = f"POST /v1/datasets HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {FREE + 1}\r\n\r\n"
        connection.sendall(head.encode())
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 507 ")
    assert b'"code":"storage_full"' in answer
    goes_on(client, small)


def test_an_upload_that_fills_the_disk_on_its_way_is_refused(serve: Serve, small: Path) -> None:
    client = serve(small)
    assert refused(client.post("/v1/datasets", content=large(FREE + MIB)))
    goes_on(client, small)


def test_an_upload_in_parts_that_can_not_fit_is_refused_before_its_first_byte(serve: Serve, small: Path) -> None:
    client = serve(small)
    said = {"Tus-Resumable": "1.0.0", "Upload-Length": str(FREE + 1), "Upload-Metadata": metadata(purpose="dataset")}
    assert refused(client.post("/v1/uploads", headers=said))
    goes_on(client, small)


def test_parts_stay_while_there_is_no_room_to_put_them_together(serve: Serve, small: Path) -> None:
    client, data = serve(small), samples_of(5 * MIB)
    address = begin(client, len(data))
    assert send(client, address, 0, data).status_code == 204
    upload = client.get(address).json()
    assert (upload["state"], upload["error"]["code"]) == ("checking", "storage_full")
    assert offset_of(client, address) == len(data)
    assert client.delete(address).status_code == 204
    goes_on(client, small)


def test_a_part_that_fills_the_disk_is_refused_and_those_before_stay(serve: Serve, small: Path) -> None:
    client, data = serve(small), samples_of(FREE - MIB)
    address, other = begin(client, len(data)), begin(client, len(data))
    assert send(client, address, 0, data[: 4 * MIB]).status_code == 204
    assert refused(send(client, other, 0, data[: 5 * MIB]))
    assert (offset_of(client, address), offset_of(client, other)) == (4 * MIB, 0)
    assert [client.delete(each).status_code for each in (address, other)] == [204, 204]
    goes_on(client, small)


def test_the_refusal_says_what_to_do_and_nothing_of_the_machine(serve: Serve, small: Path) -> None:
    body = serve(small).post("/v1/datasets", content=large(FREE + MIB)).json()
    assert body["title"] == "There is no room left for this file"
    assert "Ask the operator for room" in body["remedy"]
    assert str(small) not in str(body)
    assert "Errno" not in str(body)


def test_an_upload_that_the_gate_makes_larger_is_refused_too(serve: Serve, small: Path) -> None:
    client = serve(small)
    assert refused(client.post("/v1/datasets", content=packed(FREE + MIB)))
    goes_on(client, small)


def test_a_folder_that_unpacks_to_more_than_the_disk_has_is_refused_too(serve: Serve, small: Path) -> None:
    """What is unpacked on the way leaves the same room free as what is kept."""
    with pytest.raises(OSError, match="No space"):
        unpack_folder(zeros(small.parent / "zeros.tar.gz", FREE + MIB), small, 2**40)
    free = os.statvfs(small)
    assert free.f_bavail * free.f_frsize >= RESERVE_BYTES
    for file in small.iterdir():
        file.unlink()
    client = serve(small)
    assert refused(client.post("/v1/models", content=(small.parent / "zeros.tar.gz").read_bytes()))
    goes_on(client, small)


@pytest.mark.parametrize("files", [3, 4, 6, 7], ids=["received", "fresh", "folder", "lock"])
def test_a_disk_that_takes_no_more_files_is_full(serve: Serve, disk: Disk, files: int) -> None:
    """The file system itself says so, at each step that makes a file: nothing foresees it."""
    folder = disk(f"size={RESERVE_BYTES + FREE},nr_inodes={files}")
    client = serve(folder)
    assert refused(client.post("/v1/datasets", content=SMALL))
    subprocess.run(["mount", "-o", "remount,nr_inodes=100", str(folder)], check=True)
    goes_on(client, folder)


def test_a_full_disk_is_not_ready(serve: Serve, small: Path) -> None:
    client = serve(small)
    assert "/storage" not in [fault["pointer"] for fault in client.get("/readyz").json()["errors"]]
    (small / "somebody else's").write_bytes(bytes(FREE + MIB))
    wait_until(lambda: "/storage" in [fault["pointer"] for fault in client.get("/readyz").json()["errors"]])


@pytest.fixture
def limited(settings: Settings, tmp_path: Path) -> Iterator[httpx.Client]:
    """An API process that may not make a file of more than 4 MiB; for this, no rights are needed."""
    given = {f"ZEROPOINT_{name.upper()}": str(value) for name, value in settings.model_dump().items()}
    with api_process({**os.environ, **given}, tmp_path / "api.log") as (process_id, address):
        resource.prlimit(process_id, resource.RLIMIT_FSIZE, (LIMIT, LIMIT))
        with httpx.Client(base_url=address, timeout=30) as client:
            yield client


def test_a_file_that_grows_over_a_limit_of_the_system_is_refused(limited: httpx.Client, tmp_path: Path) -> None:
    for content in (large(LIMIT + MIB), packed(LIMIT + MIB)):
        assert refused(limited.post("/v1/datasets", content=content))
    goes_on(limited, tmp_path / "storage")
    log = (tmp_path / "api.log").read_text()
    assert "an upload found no room" in log
