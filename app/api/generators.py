"""What programs that generate clients need of the contract, and validation does not.

Defaults that are objects are left out: generators write them as literals of a language, or drop the schema and all that
refers to it. The property's description says the default. A property that chooses one of several schemas is required
in each, as validation has it: openapi-generator takes no other discriminator.
"""

import json
from collections.abc import Iterator
from typing import Any

from app.api.descriptions import DESCRIPTIONS

Schema = dict[str, Any]


def complete(contract: Schema) -> None:
    """Describe every property and parameter of a contract, and give it the form that generators can read."""
    schemas: dict[str, Schema] = contract["components"]["schemas"]
    for name, schema in schemas.items():
        for key, entry in schema.get("properties", {}).items():
            _describe(entry, f"{name}.{key}", key)
            _say_the_default(entry)
    for operation in (each for item in contract["paths"].values() for each in item.values()):
        for parameter in operation.get("parameters", []):
            _describe(parameter, f"{parameter['in']} {parameter['name']}", parameter["name"])
    for schema in _inside(contract):
        for reference in schema.get("discriminator", {}).get("mapping", {}).values():
            _require(schemas[reference.rpartition("/")[2]], schema["discriminator"]["propertyName"])


def _describe(entry: Schema, *keys: str) -> None:
    words = next((DESCRIPTIONS[key] for key in keys if key in DESCRIPTIONS), None)
    if "description" not in entry and words is not None:
        entry["description"] = words


def _say_the_default(entry: Schema) -> None:
    if isinstance(entry.get("default"), dict):
        entry["description"] = f"{entry.get('description', '')} By default {json.dumps(entry.pop('default'))}.".strip()


def _require(schema: Schema, key: str) -> None:
    schema["required"] = sorted({*schema.get("required", []), key})


def _inside(node: object) -> Iterator[Schema]:
    """Yield each object of a document."""
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    for child in node if isinstance(node, list) else []:
        yield from _inside(child)
