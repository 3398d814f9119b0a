"""schemathesis sends what the contract allows, and what it forbids, to every operation; answers keep the contract.

Few examples of each, the same every time. Ids that schemathesis makes up name nothing, so what is there is read after.
"""

from typing import Any

import httpx
import hypothesis
import pytest
import schemathesis
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from app.main import create_app
from app.settings import Settings
from tests.tus import begin

EXAMPLES = 8
"""Of each mode, for each operation."""
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
]
NOT_READY = ("/readyz", "/metrics")
"""503 where no worker lives is what they say."""
TUS = "/v1/uploads"
"""412, which that protocol wants for another version of it, is none of the statuses that count as a refusal."""

CONTRACT: dict[str, Any] = create_app(Settings(database_url="sqlite://"), reconciles=False).openapi()
OPERATIONS = sorted((path, method) for path, item in CONTRACT["paths"].items() for method in item)
WITH_INPUT = [
    (path, method)
    for path, method in OPERATIONS
    if {"parameters", "requestBody"} & set(CONTRACT["paths"][path][method])
]
"""Nothing can be wrong with what the others take."""
CASES = [
    *((path, method, GenerationMode.POSITIVE) for path, method in OPERATIONS),
    *((path, method, GenerationMode.NEGATIVE) for path, method in WITH_INPUT),
]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(("path", "method", "mode"), CASES)
def test_answers_keep_the_contract(client: httpx.Client, path: str, method: str, mode: GenerationMode) -> None:
    operation = schemathesis.openapi.from_dict(CONTRACT)[path][method.upper()]
    checks = [check for check in CHECKS if path not in NOT_READY or check is not not_a_server_error]
    checks = [check for check in checks if not path.startswith(TUS) or check is not negative_data_rejection]

    @hypothesis.seed(17)
    @hypothesis.settings(
        max_examples=EXAMPLES,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def send(case: Any) -> None:
        case.call_and_validate(base_url=str(client.base_url), checks=checks, timeout=60)

    send()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_what_is_there_keeps_the_contract(client: httpx.Client, model_id: str, dataset_id: str) -> None:
    wish = {"model": model_id, "dataset": dataset_id}
    job = client.post("/v1/jobs", json={**wish, "preset": "int8-accurate", "tags": ["a"], "owner": "b"}).json()["id"]
    sweep = client.post("/v1/sweeps", json={**wish, "recipes": [{"preset": "int8"}, {"preset": "float16"}]}).json()
    ids = {"model_id": model_id, "dataset_id": dataset_id, "job_id": job, "sweep_id": sweep["id"], "name": "x"}
    ids["key_id"] = client.post("/v1/keys", json={"name": "a", "role": "reader"}).json()["id"]
    ids["webhook_id"] = client.post("/v1/webhooks", json={"url": "https://hooks.example/"}).json()["id"]
    ids["upload_id"] = begin(client, 100).rpartition("/")[2]
    contract = schemathesis.openapi.from_dict(CONTRACT)
    for path, method in OPERATIONS:
        if method == "get" and path not in NOT_READY:
            query = {"job": job} if path == "/v1/artifacts" else {}
            case = contract[path]["GET"].Case(path_parameters=ids, query=query)
            answer = case.call_and_validate(base_url=str(client.base_url), checks=CHECKS[:5], timeout=60)
            assert answer.status_code == (404 if path.endswith(("report", "{name}")) else 200), path
