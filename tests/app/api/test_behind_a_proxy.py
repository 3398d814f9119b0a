"""Behind a proxy: at a path of its own, with the client's address, and for web pages of other origins."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request

from app.main import create_app
from app.settings import Settings
from tests.factories import safetensors
from tests.servers import api_thread

PREFIX = "/teams/quantization"
WEIGHTS = safetensors(**{"a.weight": ("F32", [4, 32])})
PAGE = "https://example.org"

Serve = Callable[..., httpx.Client]


@pytest.fixture
def serve(settings: Settings) -> Iterator[Serve]:
    """Serve an application with other settings; its /seen says what it sees of a client."""
    with ExitStack() as stack:

        def start(**changes: str) -> httpx.Client:
            app = create_app(settings.model_copy(update=changes), reconciles=False)
            _show_the_client(app)
            return stack.enter_context(api_thread(app))

        yield start


def _show_the_client(app: FastAPI) -> None:
    @app.get("/seen")
    def seen(request: Request) -> dict[str, Any]:
        return {"client": request.client and request.client.host, "scheme": request.url.scheme}


def addresses_in(body: object) -> Iterator[str]:
    """Yield every text that looks like an address of the API."""
    if isinstance(body, dict):
        for value in body.values():
            yield from addresses_in(value)
    elif isinstance(body, list):
        for value in body:
            yield from addresses_in(value)
    elif isinstance(body, str) and "/v1/" in body:
        yield body


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("removed", [True, False], ids=["prefix removed", "prefix kept"])
def test_every_address_begins_with_the_prefix(serve: Serve, removed: bool) -> None:
    client = serve(root_path=PREFIX)
    here = "" if removed else PREFIX
    model = client.post(f"{here}/v1/models", content=WEIGHTS)
    wish = {"model": model.json()["id"], "preset": "int8-weight-only"}
    dataset = client.post(f"{here}/v1/datasets", content=safetensors(x=("F32", [2, 2])))
    job = client.post(f"{here}/v1/jobs", json=wish)
    answers = [model, dataset, job]
    assert [answer.headers["Location"] for answer in answers] == [
        f"{PREFIX}/v1/{kind}/{answer.json()['id']}"
        for kind, answer in zip(("models", "datasets", "jobs"), answers, strict=True)
    ]
    answers += [client.get(f"{here}{path}") for path in ("/v1/jobs", f"/v1/jobs/{job.json()['id']}")]
    answers.append(client.post(f"{here}/v1/jobs/{job.json()['id']}/cancel"))
    found = [address for answer in answers for address in addresses_in(answer.json())]
    assert len(found) >= 15
    assert all(address.startswith(f"{PREFIX}/v1/") for address in found), found
    assert client.get(f"{here}/openapi.json").json()["servers"] == [{"url": PREFIX}]
    assert client.put(f"{here}/v1/jobs").headers["Allow"] == "GET, HEAD, POST, OPTIONS"
    assert client.get(f"{here}/v1/jobs?nonsense=1").status_code == 422


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_without_a_prefix_there_is_none(serve: Serve) -> None:
    client = serve()
    location = client.post("/v1/models", content=WEIGHTS).headers["Location"]
    assert location.startswith("/v1/models/mdl_")
    assert "servers" not in client.get("/openapi.json").json()
    assert client.get(f"{PREFIX}/v1/jobs").status_code == 404


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("trusted", "believed"),
    [("", False), ("10.0.0.0/8", False), ("127.0.0.1", True), ("10.1.2.3, 127.0.0.0/8", True), ("*", True)],
)
def test_forwarded_headers_are_believed_from_the_proxy_alone(serve: Serve, trusted: str, believed: bool) -> None:
    client = serve(forwarded_allow_ips=trusted)
    seen = client.get("/seen", headers={"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}).json()
    assert seen == (
        {"client": "203.0.113.9", "scheme": "https"} if believed else {"client": "127.0.0.1", "scheme": "http"}
    )


def preflight(client: httpx.Client, origin: str, path: str = "/v1/jobs") -> httpx.Response:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "idempotency-key, prefer"}
    return client.options(path, headers={"Origin": origin, **asked})


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_pages_of_the_named_origins_may_call_and_read(serve: Serve) -> None:
    client = serve(cors_origins=f"https://other.example, {PAGE}")
    allowed = preflight(client, PAGE)
    assert (allowed.status_code, allowed.headers["Access-Control-Allow-Origin"]) == (200, PAGE)
    assert "prefer" in allowed.headers["Access-Control-Allow-Headers"]
    for answer in (client.get(path, headers={"Origin": PAGE}) for path in ("/v1/jobs", "/v1/jobs/job_0", "/nothing")):
        assert answer.headers["Access-Control-Allow-Origin"] == PAGE
        exposed = set(answer.headers["Access-Control-Expose-Headers"].split(", "))
        assert exposed >= {"Location", "ETag", "Repr-Digest", "X-Request-ID", "Retry-After", "Preference-Applied"}
        assert "Access-Control-Allow-Credentials" not in answer.headers
    assert "Access-Control-Allow-Origin" not in preflight(client, "https://evil.example").headers
    assert client.options("/v1/jobs").headers["Allow"]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_pages_of_no_origin_may_call_by_default(serve: Serve) -> None:
    client = serve()
    for answer in (preflight(client, PAGE), client.get("/v1/jobs", headers={"Origin": PAGE})):
        assert not [name for name in answer.headers if name.startswith("access-control")]
