"""The API as a process of its own, with curl."""

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.settings import Settings
from benchmarks.upload_memory import CURL, peak_bytes, upload, write_sparse_dataset
from tests.servers import api_process


@pytest.fixture
def process(settings: Settings, tmp_path: Path) -> Iterator[tuple[int, str]]:
    given = {f"ZEROPOINT_{name.upper()}": str(value) for name, value in settings.model_dump().items()}
    with api_process({**os.environ, **given}, tmp_path / "api.log") as running:
        yield running


def curl(*arguments: str) -> dict[str, Any]:
    answer = subprocess.run(["curl", "-sS", *arguments], capture_output=True, text=True, check=True)
    body: dict[str, Any] = json.loads(answer.stdout)
    return body


@pytest.mark.sampled(2)
def test_curl_uploads_raw_and_as_a_form_and_submits(
    process: tuple[int, str], archive: Path, samples: Path, tmp_path: Path
) -> None:
    _, address = process
    model = curl("-X", "POST", "-T", str(archive), f"{address}/v1/models?name=digits")
    dataset = curl("-F", f"file=@{samples}", f"{address}/v1/datasets")
    assert model["sha256"] == hashlib.sha256(archive.read_bytes()).hexdigest()
    assert dataset["sha256"] == hashlib.sha256(samples.read_bytes()).hexdigest()
    wish = json.dumps({"model": model["id"], "dataset": dataset["id"], "preset": "int8-static"})
    job = curl("--json", wish, f"{address}/v1/jobs")
    assert job["state"] == "queued"
    assert curl(f"{address}{job['links']['self']}") == job


@pytest.mark.sampled(6)
@pytest.mark.parametrize("how", CURL)
def test_a_large_upload_takes_no_memory(process: tuple[int, str], tmp_path: Path, how: str) -> None:
    process_id, address = process
    assert upload(address, write_sparse_dataset(tmp_path / "warm", 2**20), how) == 201
    before = peak_bytes(process_id)
    assert upload(address, write_sparse_dataset(tmp_path / "large", 256 * 2**20), how) == 201
    assert peak_bytes(process_id) - before < 16 * 2**20


@pytest.mark.sampled(2)
def test_curl_is_told_that_a_file_is_too_large_before_it_sends_it(settings: Settings, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "ZEROPOINT_DATABASE_URL": settings.database_url,
        "ZEROPOINT_STORAGE_URL": settings.storage_url,
        "ZEROPOINT_MAX_UPLOAD_BYTES": str(2**20),
    }
    with api_process(environment, tmp_path / "api.log") as (_, address):
        refusal = curl("-X", "POST", "-T", str(write_sparse_dataset(tmp_path / "large", 2**28)), f"{address}/v1/models")
    assert refusal["code"] == "upload_too_large"


@pytest.mark.sampled(2)
def test_the_log_of_a_failed_request_names_its_id(process: tuple[int, str], settings: Settings, tmp_path: Path) -> None:
    _, address = process
    storage = Path(settings.storage_url.removeprefix("file:"))
    (storage / "tmp").rmdir()
    refusal = curl("--data-binary", "x", "-H", "X-Request-ID: mine", f"{address}/v1/datasets")
    assert refusal["code"] == "internal_error"
    lines = [json.loads(line) for line in (tmp_path / "api.log").read_text().splitlines()]
    failed, *_ = [line for line in lines if line.get("request_id") == "mine"]
    assert (failed["level"], failed["message"]) == ("ERROR", "the request failed")
    assert "FileNotFoundError" in failed["error"]
