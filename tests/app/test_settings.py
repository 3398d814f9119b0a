from pathlib import Path

import pytest
from pydantic import ValidationError

from app.settings import Settings
from tests.servers import ROOT


def test_the_example_lists_every_setting_with_its_default_and_a_comment() -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    assert all(comment.startswith("# ") for comment in lines[::2])
    listed = dict(line.split("=", 1) for line in lines[1::2])
    fields = Settings.model_fields
    assert listed == {f"ZEROPOINT_{name.upper()}": str(field.default) for name, field in fields.items()}


def test_the_environment_overrides_a_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZEROPOINT_SCRATCH_DIR", "/scratch")
    assert Settings().scratch_dir == Path("/scratch")


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        Settings().worker_slots = 2  # type: ignore[misc]
