"""`python -m zeropoint`: the library's programs by hand."""

import subprocess
import sys

import pytest

import zeropoint
from sandbox.programs import PROGRAMS
from zeropoint.__main__ import main


def test_a_program_without_its_folder_says_how_to_call_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["job"])
    assert ended.value.code == 2
    assert "python -m zeropoint job" in capsys.readouterr().err


def test_samples_without_a_model_to_run_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["validate", "folder", "--dataset", "samples.safetensors"])
    assert "--dataset needs --model" in capsys.readouterr().err


def test_help_and_version_import_no_torch() -> None:
    code = (
        "import contextlib, sys; from zeropoint.__main__ import main\n"
        "for word in ('--help', '--version'):\n"
        "    with contextlib.suppress(SystemExit): main([word])\n"
        "assert 'torch' not in sys.modules"
    )
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert zeropoint.__version__ in printed
    assert all(program in printed for program in ("job", "validate", "describe"))


def test_names_of_the_face_are_listed() -> None:
    names = ["Plan", "QuantizationError", "QuantizationWarning", "QuantizedModel", "__version__", "load", "quantize"]
    assert dir(zeropoint) == names


def test_every_confined_program_is_a_module_with_a_main() -> None:
    code = "\n".join(
        [
            "from importlib import import_module",
            "from inspect import signature",
            "from sandbox.programs import PROGRAMS",
            "for program in PROGRAMS.values():",
            "    main = import_module(program.module).main",
            "    assert next(iter(signature(main).parameters)) == 'lock_down', program",
            "    assert program.preload is None or import_module(program.preload)",
        ]
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert set(PROGRAMS) == {"job", "describe", "gate", "probe"}
