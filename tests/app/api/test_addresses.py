"""What holds at every address of the contract: methods, HEAD, OPTIONS, query keys."""

import re
from typing import Any

import httpx
import pytest

from tests.app.api.test_openapi import contract as contract  # a fixture

CHANGING = ("/readyz", "/metrics")
"""What these answer depends on the moment."""
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE")


@pytest.fixture
def offered(client: httpx.Client, contract: dict[str, Any]) -> dict[str, set[str]]:
    """Address with ids that don't exist -> its methods, as the contract has them."""
    return {
        re.sub(r"\{[^}]*\}", "none_0", path): {name.upper() for name in item}
        for path, item in {**contract["paths"], "/openapi.json": {"get": {}}}.items()
    }


def test_every_address_lists_all_its_methods(client: httpx.Client, offered: dict[str, set[str]]) -> None:
    for path, methods in offered.items():
        expected = methods | {"OPTIONS"} | ({"HEAD"} if "GET" in methods else set())
        for method in ("OPTIONS", *METHODS):
            if method not in expected or method == "OPTIONS":
                answer = client.request(method, path)
                assert set(answer.headers["Allow"].split(", ")) == expected, (method, path)
                assert answer.status_code == (204 if method == "OPTIONS" else 405), (method, path)
                if answer.status_code == 405 and method != "HEAD":
                    assert answer.json()["code"] == "method_not_allowed"


def test_head_is_get_without_a_body(client: httpx.Client, offered: dict[str, set[str]]) -> None:
    for path in (path for path, methods in offered.items() if "GET" in methods):
        get, head = client.get(path), client.head(path)
        assert head.content == b""
        if path in CHANGING:
            continue
        assert head.status_code == get.status_code, path
        for name in ("content-type", "content-length", "etag"):
            assert head.headers.get(name) == get.headers.get(name), path


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
@pytest.mark.parametrize("path", ["/v1/models", "/v1/datasets", "/v1/models/model.pt2", "/v1/datasets/x.npz"])
def test_an_upload_by_another_method_is_told_which(client: httpx.Client, method: str, path: str) -> None:
    answer = client.request(method, path, content=b"model")
    assert answer.status_code == 405
    assert "curl -X POST -T FILE" in answer.json()["remedy"]


def test_no_remedy_is_a_command_that_would_be_refused(client: httpx.Client) -> None:
    refusal = client.post("/v1/models", files={"other": b"x"}).json()
    assert "-X POST -T" in refusal["remedy"]


def test_unknown_query_keys_are_refused_at_every_address(client: httpx.Client, contract: dict[str, Any]) -> None:
    for path, item in contract["paths"].items():
        for method, operation in item.items():
            known = {entry["name"] for entry in operation.get("parameters", []) if entry["in"] == "query"}
            address = re.sub(r"\{[^}]*\}", "none_0", path)
            answer = client.request(method.upper(), address, params={"nonsense": "1"})
            assert (answer.status_code, answer.json()["code"]) == (422, "request_invalid"), address
            assert answer.json()["errors"][0]["pointer"] == "/query/nonsense"
            assert all(name in answer.json()["remedy"] for name in known)
            for name in known:
                answer = client.request(method.upper(), address, params=[(name, "1"), (name, "2")])
                assert answer.json()["errors"] == [{"pointer": f"/query/{name}", "detail": "is given twice"}]


@pytest.mark.parametrize(
    ("query", "pointer", "detail"),
    [
        ("sate=queued", "/query/sate", "is not a known key (near: state)"),
        ("State=queued", "/query/State", "is not a known key (near: state)"),
        ("a~b/c=1", "/query/a~0b~1c", "is not a known key"),
        ("%00%E2%80%AE=1", "/query/??", "is not a known key"),
        ("limit=1&limit=1", "/query/limit", "is given twice"),
        (f"{'x' * 5000}=1", "/query/" + "x" * 64, "is not a known key"),
        ("=", "/query/", "is not a known key"),
        ("queued", "/query/queued", "is not a known key"),
    ],
)
def test_a_query_key_is_named(client: httpx.Client, query: str, pointer: str, detail: str) -> None:
    answer = client.get(f"/v1/jobs?{query}")
    assert (answer.status_code, answer.json()["errors"]) == (422, [{"pointer": pointer, "detail": detail}])


def test_very_many_query_keys_are_answered_in_few_words(client: httpx.Client) -> None:
    answer = client.get("/v1/jobs?" + "&".join(f"key{number}=1" for number in range(3000)))
    assert (len(answer.json()["errors"]), answer.json()["more_errors"]) == (100, 2900)


def test_every_answer_has_a_request_id(client: httpx.Client) -> None:
    answers = [client.options("/v1/jobs"), client.put("/v1/jobs"), client.head("/healthz"), client.get("/healthz?x=1")]
    assert all(answer.headers["X-Request-ID"] for answer in answers)


def test_an_address_that_is_not_there_stays_not_found(client: httpx.Client) -> None:
    for method in ("OPTIONS", "HEAD", "PUT", "GET"):
        assert client.request(method, "/v1/nothing?x=1").status_code == 404
