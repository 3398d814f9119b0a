"""The published contract."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from app.api.descriptions import DESCRIPTIONS
from app.api.requests import UPLOAD_PATTERN, JobRequest
from app.api.wording import OF_PATTERNS
from app.jobs.status import TERMINAL


@pytest.fixture
def contract(client: httpx.Client) -> dict[str, Any]:
    contract: dict[str, Any] = client.get("/openapi.json").json()
    return contract


def operations(contract: dict[str, Any]) -> list[dict[str, Any]]:
    return [operation for item in contract["paths"].values() for operation in item.values()]


def test_every_refusal_is_documented_as_a_problem(contract: dict[str, Any]) -> None:
    for operation in operations(contract):
        refusals = {code: body for code, body in operation["responses"].items() if code == "default" or code >= "400"}
        assert "default" in refusals
        for body in refusals.values():
            assert body["content"]["application/problem+json"]["schema"] == {"$ref": "#/components/schemas/Problem"}


def test_a_body_that_may_be_empty_may_be_left_out(contract: dict[str, Any]) -> None:
    """Else a call that needs nothing said is refused: curl -X POST sends no body."""
    schemas, left_out = contract["components"]["schemas"], []
    for operation in operations(contract):
        body = operation.get("requestBody", {})
        named = body.get("content", {}).get("application/json", {}).get("schema", {})
        parts = [named, *named.get("anyOf", [])]
        names = [part["$ref"].rpartition("/")[2] for part in parts if "$ref" in part]
        if names and any("required" not in schemas[name] for name in names):
            left_out.append((operation["operationId"], body.get("required", False)))
    assert len(left_out) >= 3
    assert {required for name, required in left_out if "change" not in name} == {False}, left_out


NEVER_WRONG = {r"^1\.0\.0$", r"^[^\x00]*$"}
"""Patterns of a header that is looked at before, and of words in which one character alone is not allowed."""


def test_every_pattern_has_words_for_what_does_not_match(contract: dict[str, Any]) -> None:
    def patterns(node: Any) -> set[str]:
        if isinstance(node, dict):
            here = {node["pattern"]} if isinstance(node.get("pattern"), str) else set()
            return here.union(*map(patterns, node.values()))
        return set().union(*map(patterns, node)) if isinstance(node, list) else set()

    parameters = [operation.get("parameters", []) for operation in operations(contract)]
    bodies = {name: body for name, body in contract["components"]["schemas"].items() if name.endswith("Request")}
    found = patterns(parameters) | patterns(list(bodies.values()))
    assert found - NEVER_WRONG <= {*OF_PATTERNS, UPLOAD_PATTERN}


def test_the_framework_s_own_error_format_is_gone(contract: dict[str, Any]) -> None:
    assert "ValidationError" not in str(contract)


def test_final_states_are_published(contract: dict[str, Any]) -> None:
    assert set(contract["x-job-states"]["terminal"]) == TERMINAL


def test_every_reference_leads_somewhere(contract: dict[str, Any]) -> None:
    def references(node: Any) -> list[str]:
        if isinstance(node, dict):
            here = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
            return here + [found for value in node.values() for found in references(value)]
        return [found for value in node for found in references(value)] if isinstance(node, list) else []

    names = {reference.removeprefix("#/components/schemas/") for reference in references(contract)}
    assert names <= set(contract["components"]["schemas"])


def test_uploads_are_documented_raw_and_as_a_form(contract: dict[str, Any]) -> None:
    for path in ("/v1/models", "/v1/datasets"):
        content = contract["paths"][path]["post"]["requestBody"]["content"]
        assert set(content) == {"application/octet-stream", "multipart/form-data"}


def test_every_operation_is_described_and_named_once(contract: dict[str, Any]) -> None:
    assert all(operation["description"] for operation in operations(contract))
    names = [operation["operationId"] for operation in operations(contract)]
    assert len(names) == len(set(names))


def objects(node: Any) -> Iterator[dict[str, Any]]:
    """Every object of the document."""
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from objects(child)


def test_every_property_and_parameter_is_described(contract: dict[str, Any]) -> None:
    bare = [
        (name, schema.get("title"))
        for schema in objects(contract)
        if schema.get("type") == "object" and isinstance(schema.get("properties"), dict)
        for name, entry in schema["properties"].items()
        if not entry.get("description")
    ]
    assert bare == []
    parameters = [parameter for operation in operations(contract) for parameter in operation.get("parameters", [])]
    assert [parameter["name"] for parameter in parameters if not parameter.get("description")] == []


def test_every_description_is_used(contract: dict[str, Any]) -> None:
    texts = [node.get("description") for node in objects(contract)]
    words = {text.split(" By default {")[0] for text in texts if isinstance(text, str)}
    assert [key for key, text in DESCRIPTIONS.items() if text not in words] == []


def test_no_default_is_an_object(contract: dict[str, Any]) -> None:
    """Generators drop such a schema, and every operation that needs it."""
    assert [node for node in objects(contract) if isinstance(node.get("default"), dict) and "type" in node] == []
    described = contract["components"]["schemas"]["WeightSettings"]["properties"]["observer"]["description"]
    assert described.endswith('By default {"kind": "minmax"}.')


def test_what_chooses_a_schema_is_required_in_each(contract: dict[str, Any]) -> None:
    choices = [node["discriminator"] for node in objects(contract) if "discriminator" in node]
    assert choices
    for choice in choices:
        for reference in choice["mapping"].values():
            schema = contract["components"]["schemas"][reference.rpartition("/")[2]]
            assert choice["propertyName"] in schema["required"]


def test_functions_of_clients_are_named_as_ours(contract: dict[str, Any]) -> None:
    assert contract["paths"]["/v1/jobs"]["post"]["operationId"] == "submit_job"


def test_a_job_request_has_examples(contract: dict[str, Any]) -> None:
    examples = contract["components"]["schemas"]["JobRequest"]["examples"]
    assert [JobRequest.model_validate(example) for example in examples]
