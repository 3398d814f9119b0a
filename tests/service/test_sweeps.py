"""A sweep through the whole service, over HTTP."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.service.running import Running

pytestmark = pytest.mark.service


def test_a_sweep_gives_a_table(running: Running, program: Path, few_samples: Path) -> None:
    recipes: list[Mapping[str, Any]] = [
        {"preset": "int8-static"},
        {"preset": "int8-weight-only"},
        {"recipe": {"weights": {"dtype": "int4"}}},
    ]
    sweep = running.ended(running.submit_work("sweeps", program, few_samples, {"recipes": recipes}))
    assert (sweep["state"], sweep["error"]) == ("succeeded", None)
    static, weight_only, int4 = sweep["rows"]
    assert [row["name"] for row in sweep["rows"]] == ["int8-static", "int8-weight-only", "recipe 2"]
    assert 20 < static["sqnr_db"] < weight_only["sqnr_db"]
    assert (int4["error"]["code"], int4["bytes"]) == ("nothing_to_quantize", None)
    assert set(sweep["pareto"]) <= {0, 1}
    artifacts = running.client.get(sweep["links"]["artifacts"]).json()
    assert [artifact["name"] for artifact in artifacts] == ["manifest.json", "sweep.json"]
    assert running.client.get(artifacts[1]["url"]).json()["rows"] == sweep["rows"]
