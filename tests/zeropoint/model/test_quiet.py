"""Torch says nothing on the user's screen while we export, load and translate; errors are ours to tell."""

import logging
import warnings
from pathlib import Path

import pytest
import torch

from tests.networks import convolutional
from tests.zeropoint.conftest import QuantizeExample
from zeropoint.errors import InvalidModel
from zeropoint.formats import write_formats
from zeropoint.sources.program import open_uploaded_program

FORMATS = ("pt2", "onnx")


def test_a_model_is_read_and_written_without_a_word(
    quantized: QuantizeExample, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("ignore")
        example = convolutional()
        path = example.export(tmp_path / "uploaded.pt2")
        warnings.simplefilter("error")
        capfd.readouterr()
        caplog.clear()
        open_uploaded_program(path, "cpu")
        warnings.simplefilter("ignore")
        result = quantized(example, formats=FORMATS)
        warnings.simplefilter("error")
        list(write_formats(result, tmp_path, FORMATS))
    assert caplog.records == []
    assert capfd.readouterr().err == ""


def test_a_file_that_holds_weights_alone_is_refused_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.save({"weight": torch.ones(2, 2)}, tmp_path / "state.pt")
    with pytest.raises(InvalidModel, match="can't be loaded"):
        open_uploaded_program(tmp_path / "state.pt", "cpu")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert capfd.readouterr().err == ""
