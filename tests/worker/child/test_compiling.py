"""A confined job compiles its program in a process of its own, and reports what it measured."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sandbox.compiler import programs
from sandbox.policy import Sandbox, command
from tests.networks import BATCH, Example
from worker.child.process import started
from zeropoint.schema.job import EXIT_OK, JobSpec
from zeropoint.schema.report import Report
from zeropoint.schema.runtimes import RuntimeReport
from zeropoint.simulation.processor import lower_level, torch_level

pytestmark = pytest.mark.slow


def runtimes_of(folder: Path, sandbox: Sandbox) -> list[RuntimeReport]:
    """Do a small job in the sandbox, with compiled code asked for."""
    torch.manual_seed(0)
    samples = torch.randn(16, 8)
    example = Example(nn.Linear(8, 4), (samples[:2],), ({0: BATCH},), {"input": samples})
    example.export(folder / "model.pt2")
    save_file(example.dataset, folder / "dataset.safetensors")
    recipe = {"validation": {"runtimes": "compiled", "latency": True}, "formats": ["pt2"]}
    spec = JobSpec.model_validate({"model": "model.pt2", "dataset": "dataset.safetensors", "recipe": recipe})
    (folder / "job.json").write_text(spec.model_dump_json())
    with started(command("job", sandbox), folder) as child:
        child.go()
        while not child.ended:
            child.read(0.5)
        assert child.stop() == EXIT_OK, child.last_words
    report = Report.model_validate_json((folder / "out" / "report.json").read_bytes())
    return [row for row in report.runtimes if row.runtime == "inductor"]


@pytest.mark.skipif(not programs(), reason="this machine has no g++")
def test_both_levels_are_measured(tmp_path: Path) -> None:
    own, lower = torch_level(), lower_level(torch_level())
    rows = runtimes_of(tmp_path, Sandbox(compiler=programs()))
    assert [(row.level, row.basis, row.reason) for row in rows] == [
        (level, "measured", None) for level in (own, lower) if level
    ]
    assert all(abs(row.loss_db or 0.0) < 3 for row in rows)
    latencies = [row.latency for row in rows]
    assert latencies[0] is not None
    assert latencies[0].reason is None
    assert latencies[0].ms
    assert latencies[0].float_ms
    assert latencies[1:] == [None] * (len(rows) - 1)
