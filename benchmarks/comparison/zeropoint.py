"""Zeropoint's side: a job folder, `python -m zeropoint job` as a process of its own, and what it wrote."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.ao.quantization.fx._decomposed
from safetensors.torch import save_file
from torch import nn

from benchmarks.comparison.spent import Spent
from benchmarks.models.model import Call, Model, Tensors, export
from zeropoint.schema.formats import PROGRAM_FILE
from zeropoint.schema.job import ERROR_FILE, JOB_FILE, OUT_FOLDER, REPORT_FILE, JobSpec
from zeropoint.schema.recipe import Recipe

MODEL, DATASET, EVALUATION = "model.pt2", "dataset.safetensors", "evaluation.safetensors"


@dataclass(frozen=True)
class Done:
    """A job's report, and how long calibrating and quantizing took."""

    report: dict[str, Any]
    spent: Spent


class JobFailed(Exception):
    """The program ended without a report."""


def write_inputs(folder: Path, model: Model, network: nn.Module, calibration: Tensors) -> None:
    """What jobs of this model share."""
    torch.export.save(export(network, calibration), folder / MODEL)
    save_file({name: tensor.contiguous() for name, tensor in calibration.items()}, folder / DATASET)
    evaluation = model.evaluation(model.evaluation_samples)
    save_file({name: tensor.contiguous() for name, tensor in evaluation.items()}, folder / EVALUATION)


def run_job(folder: Path, recipe: Recipe) -> Done:
    """Do a job in the folder of its inputs. Raises JobFailed."""
    spec = JobSpec(model=MODEL, dataset=DATASET, evaluation_dataset=EVALUATION, recipe=recipe)
    (folder / JOB_FILE).write_text(spec.model_dump_json())
    out = folder / OUT_FOLDER
    shutil.rmtree(out, ignore_errors=True)  # of the preset before: its report would be taken for this one's
    command = [sys.executable, "-m", "zeropoint", "job", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        spent = _spent(process.stdout, lambda: _processor_seconds(process.pid))
    if (out / REPORT_FILE).exists():
        return Done(json.loads((out / REPORT_FILE).read_bytes()), spent)
    if (out / ERROR_FILE).exists():
        raise JobFailed(json.loads((out / ERROR_FILE).read_bytes())["detail"])
    raise JobFailed(f"the program died with exit code {process.returncode}")


def _spent(lines: Iterable[str], processor: Callable[[], float]) -> Spent:
    """From the end of loading to the last step of quantizing, by the program's lines as they come.

    The report's timings begin a phase with its first finished step: a calibration of one batch would take no time.
    """
    last = dict.fromkeys(("loading", "quantizing"), Spent(0, 0))
    for line in lines:
        last[json.loads(line)["phase"]] = Spent(time.perf_counter(), processor())
    begin, end = last["loading"], last["quantizing"]
    return Spent(end.wall - begin.wall, end.processor - begin.processor)


def _processor_seconds(process: int) -> float:
    """Of all threads of another process. The number of its clock is as Linux makes it (clock_getcpuclockid)."""
    return time.clock_gettime((~process << 3) | 2)


def load(folder: Path) -> Call:
    """The quantized program that the last job wrote."""
    return torch.export.load(folder / OUT_FOLDER / PROGRAM_FILE).module()
