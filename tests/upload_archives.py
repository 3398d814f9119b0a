"""The archive of an honest export as members by name, and such members as an archive again."""

import io
import zipfile
from pathlib import Path

import torch

from tests.networks import convolutional

PROGRAM = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"
INPUTS = "data/sample_inputs/model.pt"

Members = dict[str, bytes]


def honest_members() -> Members:
    """Return the members of an honest export, named as below its root folder."""
    file = io.BytesIO()
    example = convolutional()
    program = torch.export.export(example.module.eval(), example.inputs, dynamic_shapes=example.dynamic)
    torch.export.save(program, file)
    with zipfile.ZipFile(file) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def write(members: Members, path: Path, compression: int = zipfile.ZIP_STORED) -> Path:
    """Write a zip of these members under one root folder."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(f"model/{name}", content)
    return path
