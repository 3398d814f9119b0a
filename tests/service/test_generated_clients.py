"""Clients that are generated from the contract do a whole job: upload, submit, wait, report, download, list."""

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.service.running import REQUEST_SECONDS, TERMINAL, Running

pytestmark = pytest.mark.service

RECIPE = {"weights": {"observer": {"kind": "mse"}}, "skip_layers": ["Embedding"], "validation": {"on_failure": "warn"}}


@pytest.fixture
def contract(running: Running, tmp_path: Path) -> Path:
    path = tmp_path / "openapi.json"
    path.write_bytes(running.client.get("/openapi.json").content)
    return path


@pytest.fixture
def importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder from which packages can be imported; they are forgotten afterwards."""
    folder = tmp_path / "packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if name.startswith("generated_by_"):
            del sys.modules[name]


def generate(program: str, *words: object) -> str:
    """Run a generator, which stands beside the interpreter, and return what it said."""
    command = [str(Path(sys.executable).with_name(program)), "generate", *map(str, words)]
    path = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, env=os.environ | path, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_openapi_python_client_makes_one(
    running: Running, contract: Path, importable: Path, program: Path, few_samples: Path
) -> None:
    package = importable / "generated_by_opc"
    words = ["--path", contract, "--output-path", package, "--meta", "none", "--fail-on-warning"]
    generate("openapi-python-client", *words)
    models: Any = importlib.import_module("generated_by_opc.models")
    file: Any = importlib.import_module("generated_by_opc.types").File
    make_client = importlib.import_module("generated_by_opc").Client
    address = str(running.client.base_url).rstrip("/")
    with make_client(base_url=address, timeout=REQUEST_SECONDS, raise_on_unexpected_status=True) as client:

        def call(place: str, *words: Any, **more: Any) -> Any:
            return importlib.import_module(f"generated_by_opc.api.{place}").sync(*words, client=client, **more)

        ids = {}
        for kind, path in (("model", program), ("dataset", few_samples)):
            with path.open("rb") as data:
                upload = call(f"{kind}s.upload_{kind}", body=file(payload=data), name="by a client")
            ids[kind] = upload.id
            assert call(f"{kind}s.read_{kind}", upload.id) == upload
        wish = models.JobRequest.from_dict({**ids, "recipe": RECIPE})
        job = call("jobs.submit_job", body=wish, prefer="wait=60")
        while job.state not in TERMINAL:
            time.sleep(0.2)
            job = call("jobs.read_job", job.id)
        assert (job.state, job.recipe.skip_layers) == ("succeeded", ["Embedding"])
        assert job.id in {each.id for each in call("jobs.list_jobs", limit=100).items}
        report = call("artifacts.read_report", job.id)
        assert report.summary.layers_quantized > 0
        assert report.recipe.weights.observer.kind == "mse"
        listed = {each.name: each for each in call("artifacts.list_artifacts", job=job.id).items}
        data = call("artifacts.download_artifact", job.id, "model.safetensors")
        assert len(data.payload.read()) == listed["model.safetensors"].bytes_
        refusal = call("jobs.read_job", "job_0")
        assert (type(refusal).__name__, refusal.code) == ("Problem", "job_not_found")


def test_openapi_generator_makes_one(
    running: Running, contract: Path, importable: Path, program: Path, few_samples: Path
) -> None:
    options = "models,apis,supportingFiles,modelDocs=false,apiDocs=false,modelTests=false,apiTests=false"
    said = generate(
        *("openapi-generator-cli", "-g", "python", "-i", contract, "-o", importable),
        *("--additional-properties", "packageName=generated_by_og", "--global-property", options),
    )
    assert "incorrect" not in said, said
    root: Any = importlib.import_module("generated_by_og")
    client = root.ApiClient(root.Configuration(host=str(running.client.base_url).rstrip("/")))
    ids = {}
    for kind, path in (("model", program), ("dataset", few_samples)):
        api = getattr(root, f"{kind.title()}sApi")(client)
        upload = getattr(api, f"upload_{kind}")(path.read_bytes(), name="by a client")
        ids[kind] = upload.id
        assert getattr(api, f"read_{kind}")(upload.id) == upload
    jobs, artifacts = root.JobsApi(client), root.ArtifactsApi(client)
    job = jobs.submit_job(root.JobRequest.from_json(json.dumps({**ids, "recipe": RECIPE})), prefer="wait=60")
    while job.state not in TERMINAL:
        time.sleep(0.2)
        job = jobs.read_job(job.id)
    assert (job.state, job.recipe.skip_layers) == ("succeeded", ["Embedding"])
    assert job.id in {each.id for each in jobs.list_jobs(limit=100).items}
    report = artifacts.read_report(job.id)
    assert report.summary.layers_quantized > 0
    artifact = next(each for each in artifacts.list_artifacts(job=job.id).items if each.name == "model.safetensors")
    assert len(artifacts.download_artifact(job.id, artifact.name)) == artifact.bytes
    with pytest.raises(root.ApiException) as refusal:
        jobs.read_job("job_0")
    assert json.loads(refusal.value.body)["code"] == "job_not_found"
    client.rest_client.pool_manager.clear()
