"""The archive of an export as members by name, and such members as an archive again; torch makes no part of it."""

import zipfile
from pathlib import Path

PROGRAM = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"
INPUTS = "data/sample_inputs/model.pt"

Members = dict[str, bytes]


def members_below_root(path: Path) -> Members:
    """Return every member of an archive, named as below its root folder."""
    with zipfile.ZipFile(path) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def write(members: Members, path: Path, compression: int = zipfile.ZIP_STORED) -> Path:
    """Write a zip of these members under one root folder."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(f"model/{name}", content)
    return path
