"""Write the JSON Schema of the metadata in model.safetensors: `python -m scripts.write_metadata_schema`."""

import json
from pathlib import Path

import zeropoint.schema.metadata

SCHEMA = Path(zeropoint.schema.metadata.__file__).with_name("metadata.schema.json")


def text() -> str:
    """Return the file's content."""
    return json.dumps(zeropoint.schema.metadata.metadata_schema(), indent=1) + "\n"


if __name__ == "__main__":
    SCHEMA.write_text(text())
