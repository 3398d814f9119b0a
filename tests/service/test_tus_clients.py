"""The clients that people use, tuspy and tus-js-client, over connections that break and past a kill -9 of the API."""

import hashlib
import io
import json
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from tusclient.client import TusClient
from tusclient.exceptions import TusCommunicationError, TusUploadFailed

from app.cli.commands import api_command, with_root
from app.database import migrate
from app.settings import Settings
from tests.servers import ROOT, free_port, listens, wait_until
from tests.sources import Files
from tests.tus import PART, begin, checksum, offset_of, samples_of, send

pytestmark = pytest.mark.own_service

TUS_JS_CLIENT = "tus-js-client@4.3.1"
NPM_SECONDS = 120
UPLOAD = """
import { createReadStream, statSync } from 'node:fs'
import { Upload } from 'tus-js-client'

const [endpoint, path, purpose, chunkSize] = process.argv.slice(2)
const upload = new Upload(createReadStream(path), {
  endpoint,
  uploadSize: statSync(path).size,
  chunkSize: Number(chunkSize),
  retryDelays: Array(60).fill(250),
  metadata: { purpose, filename: 'from-node' },
  onAfterResponse: (request, response) => { last = response },
  onSuccess: () => console.log(JSON.stringify({ url: upload.url, result: last.getHeader('Upload-Result') })),
  onError: (error) => console.log(JSON.stringify({ status: error.originalResponse?.getStatus(),
    problem: JSON.parse(error.originalResponse?.getBody() || 'null'), message: String(error) })),
})
let last
upload.start()
"""


@dataclass
class Api:
    """An API at one address that can be killed and started again."""

    environment: Mapping[str, str]
    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        with (self.folder / "api.log").open("ab") as log:
            command = api_command("127.0.0.1", self.port)
            environment = with_root(dict(self.environment))
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        wait_until(lambda: self.process is None or self.process.poll() is not None or listens(self.port))

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(60)

    def execute(self, statement: str) -> list[Any]:
        connection = sqlite3.connect(self.folder / "zeropoint.db", timeout=30)
        with connection:
            rows = connection.execute(statement).fetchall()
        connection.close()
        return rows


@pytest.fixture(scope="module")
def api(environment: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory, file_server: Files) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("tus")
    settings = {
        "ZEROPOINT_DATABASE_URL": f"sqlite:///{folder}/zeropoint.db",
        "ZEROPOINT_STORAGE_URL": f"file:{folder}/storage",
        "ZEROPOINT_RECONCILE_SECONDS": "0.2",
        "ZEROPOINT_LEASE_SECONDS": "3",
        **{f"ZEROPOINT_{name.upper()}": value for name, value in file_server.settings.items()},
    }
    migrate(Settings(database_url=settings["ZEROPOINT_DATABASE_URL"]))
    api = Api({**environment, **settings}, folder)
    api.start()
    yield api
    assert api.process is not None
    api.process.terminate()
    api.process.wait(60)


@pytest.fixture
def client(api: Api) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=api.address, timeout=120) as client:
        yield client


@dataclass
class CuttingWire:
    """A wire to the API that breaks again and again, after a random number of bytes from the client."""

    target: int
    random: random.Random
    most: int
    cuts: int = 0

    def accept_for_ever(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=self._pass_on, args=(client,), daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self.target)) as server, suppress(OSError):
            threading.Thread(target=_copy, args=(server, client), daemon=True).start()
            left = self.random.randrange(1, self.most)
            while left > 0 and (chunk := client.recv(min(left, 2**16))):
                server.sendall(chunk)
                left -= len(chunk)
            self.cuts += left <= 0


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while chunk := source.recv(2**16):
            target.sendall(chunk)


@contextmanager
def cutting(port: int, seed: int, most: int) -> Iterator[tuple[str, CuttingWire]]:
    wire = CuttingWire(port, random.Random(seed), most)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=wire.accept_for_ever, args=(listener,), daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", wire


def finished(client: httpx.Client, address: str) -> dict[str, Any]:
    """The upload, once it has ended."""
    wait_until(lambda: client.get(address).json()["state"] not in {"receiving", "fetching", "checking"})
    upload: dict[str, Any] = client.get(address).json()
    return upload


def uploader(endpoint: str, data: bytes, **options: Any) -> Any:
    metadata = {"purpose": "dataset", "filename": "from-python"}
    return TusClient(endpoint).uploader(file_stream=io.BytesIO(data), metadata=metadata, **options)


def test_tuspy_sends_a_dataset_with_checksums(api: Api, client: httpx.Client) -> None:
    data = samples_of(300_000)
    sender = uploader(f"{api.address}/v1/uploads", data, chunk_size=70_000, upload_checksum=True)
    sender.upload()
    dataset = client.get(sender.request.response_headers["upload-result"]).json()
    assert (dataset["name"], dataset["sha256"]) == ("from-python", hashlib.sha256(data).hexdigest())


def test_tuspy_hears_the_gate_s_refusal(api: Api) -> None:
    with pytest.raises(TusUploadFailed) as failed:
        uploader(f"{api.address}/v1/uploads", b"hello, dataset").upload()
    assert (failed.value.status_code, json.loads(failed.value.response_content)["code"]) == (422, "dataset_invalid")


def test_tuspy_gets_through_a_wire_that_breaks(api: Api, client: httpx.Client, record_property: Any) -> None:
    """Each PATCH may be all that is left of the file: the wire breaks in the middle of it, at any byte."""
    data = samples_of(3_000_000)
    with cutting(api.port, seed=7, most=1_500_000) as (endpoint, wire):
        sender = None
        while sender is None or sender.offset < len(data):
            with suppress(TusCommunicationError, TusUploadFailed):
                url = sender.url if sender else None
                sender = uploader(f"{endpoint}/v1/uploads", data, url=url)
                sender.upload()
    record_property("cuts of tuspy's wire", wire.cuts)
    assert wire.cuts >= 2
    upload = finished(client, f"/v1/uploads/{sender.url.rpartition('/')[2]}")
    assert client.get(upload["links"]["result"]).json()["sha256"] == hashlib.sha256(data).hexdigest()


def test_what_was_acknowledged_outlives_a_kill(api: Api, client: httpx.Client) -> None:
    data = samples_of(1_000_000)
    address = begin(client, len(data))
    assert send(client, address, 0, data[:400_000]).status_code == 204
    head = f"PATCH {address} HTTP/1.1\r\nHost: x\r\nContent-Length: 600000\r\nUpload-Offset: 400000\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in PART.items())
    with socket.create_connection(("127.0.0.1", api.port)) as connection:
        connection.sendall(head.encode() + b"\r\n" + data[400_000:700_000])
        time.sleep(0.2)
        api.kill()
    api.start()
    assert offset_of(client, address) == 400_000
    damaged = bytes([data[400_000] ^ 1]) + data[400_001:]
    refused = send(client, address, 400_000, damaged, **{"Upload-Checksum": checksum("sha1", data[400_000:])})
    assert (refused.status_code, offset_of(client, address)) == (460, 400_000)
    result = send(client, address, 400_000, data[400_000:]).headers["Upload-Result"]
    assert client.get(result).json()["sha256"] == hashlib.sha256(data).hexdigest()


def test_a_check_outlives_a_kill(api: Api, client: httpx.Client) -> None:
    """The API dies while it checks; the next one does it again, once the lease of the dead one is over."""
    data = samples_of(30_000_000)
    address = begin(client, len(data))
    upload_id = address.rpartition("/")[2]

    def send_all() -> None:
        with httpx.Client(base_url=api.address, timeout=60) as own, suppress(httpx.HTTPError):
            send(own, address, 0, data)

    sending = threading.Thread(target=send_all)
    sending.start()
    claimed = f"SELECT 1 FROM uploads WHERE id = '{upload_id}' AND state = 'checking' AND token > 0"
    wait_until(lambda: bool(api.execute(claimed)))
    api.kill()
    sending.join()
    (state, token), *_ = api.execute(f"SELECT state, token FROM uploads WHERE id = '{upload_id}'")
    assert (state, token) == ("checking", 1), "it was killed too late to show anything"
    api.start()
    upload = finished(client, address)
    assert client.get(upload["links"]["result"]).json()["sha256"] == hashlib.sha256(data).hexdigest()
    ((token,),) = api.execute(f"SELECT token FROM uploads WHERE id = '{upload_id}'")
    assert token >= 2


def test_an_import_outlives_a_kill(api: Api, client: httpx.Client, file_server: Files) -> None:
    """The API dies while it fetches; the next one fetches it again, once the lease of the dead one is over."""
    data = samples_of(1_000_000)
    file_server.gate.clear()
    begun = client.post("/v1/datasets", json={"source": file_server.put("/outlives-a-kill", data)})
    wait_until(lambda: ("/outlives-a-kill", None) in file_server.asked)
    api.kill()
    file_server.gate.set()
    api.start()
    upload = finished(client, begun.headers["Location"])
    assert client.get(upload["links"]["result"]).json()["sha256"] == hashlib.sha256(data).hexdigest()
    assert file_server.asked.count(("/outlives-a-kill", None)) == 2


@pytest.fixture(scope="module")
def tus_js(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tus-js-client and a program that uploads a file with it."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip("tus-js-client was not run: node and npm are not installed")
    folder = tmp_path_factory.mktemp("node")
    command = [npm, "install", "--prefix", str(folder), "--ignore-scripts", "--no-audit", "--no-fund", TUS_JS_CLIENT]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=NPM_SECONDS)
    except subprocess.TimeoutExpired:
        pytest.skip(f"tus-js-client was not run: npm did not get it within {NPM_SECONDS} s")
    if done.returncode:
        pytest.skip(f"tus-js-client was not run: npm can't get it here: {done.stderr[-500:]}")
    (folder / "upload.mjs").write_text(UPLOAD)
    return folder


@contextmanager
def node(tus_js: Path, endpoint: str, data: bytes, chunk: int) -> Iterator["subprocess.Popen[bytes]"]:
    path = tus_js / "data.bin"
    path.write_bytes(data)
    command = ["node", "upload.mjs", endpoint, str(path), "dataset", str(chunk)]
    with subprocess.Popen(command, cwd=tus_js, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def said(process: "subprocess.Popen[bytes]") -> dict[str, Any]:
    output, _ = process.communicate(timeout=300)
    answer: dict[str, Any] = json.loads(output)
    return answer


def test_tus_js_client_sends_a_dataset(api: Api, client: httpx.Client, tus_js: Path) -> None:
    data = samples_of(300_000)
    with node(tus_js, f"{api.address}/v1/uploads", data, 70_000) as process:
        dataset = client.get(said(process)["result"]).json()
    assert (dataset["name"], dataset["sha256"]) == ("from-node", hashlib.sha256(data).hexdigest())


def test_tus_js_client_hears_the_gate_s_refusal(api: Api, tus_js: Path) -> None:
    with node(tus_js, f"{api.address}/v1/uploads", b"hello, dataset", 1000) as process:
        answer = said(process)
    assert (answer["status"], answer["problem"]["code"]) == (422, "dataset_invalid")


def test_tus_js_client_gets_through_a_wire_that_breaks(
    api: Api, client: httpx.Client, tus_js: Path, record_property: Any
) -> None:
    data = samples_of(3_000_000)
    with (
        cutting(api.port, seed=11, most=1_500_000) as (endpoint, wire),
        node(tus_js, f"{endpoint}/v1/uploads", data, 1_000_000) as process,
    ):
        answer = said(process)
    record_property("cuts of tus-js-client's wire", wire.cuts)
    assert wire.cuts >= 1
    upload = finished(client, f"/v1/uploads/{answer['url'].rpartition('/')[2]}")
    assert client.get(upload["links"]["result"]).json()["sha256"] == hashlib.sha256(data).hexdigest()


def test_tus_js_client_resumes_past_a_kill_of_the_api(api: Api, client: httpx.Client, tus_js: Path) -> None:
    data = samples_of(5_000_000)
    with node(tus_js, f"{api.address}/v1/uploads", data, 100_000) as process:
        some = f"SELECT received_bytes FROM uploads WHERE bytes = {len(data)} AND received_bytes > 1000000"
        wait_until(lambda: bool(api.execute(some)))
        api.kill()
        ((before,),) = api.execute(some)
        assert before < len(data), "it was killed too late to show anything"
        api.start()
        answer = said(process)
    upload = finished(client, f"/v1/uploads/{answer['url'].rpartition('/')[2]}")
    assert client.get(upload["links"]["result"]).json()["sha256"] == hashlib.sha256(data).hexdigest()
