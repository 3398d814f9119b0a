"""Zeropoint's side: a job folder, `python -m quantization.run` as a process of its own, and what it wrote."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import torch.ao.quantization.fx._decomposed
from safetensors.torch import save_file
from torch import nn

from benchmarks.models.model import Call, Model, Tensors, export
from quantization.artifacts import PROGRAM_FILE
from quantization.folder import ERROR_FILE, JOB_FILE, OUT_FOLDER, REPORT_FILE, JobSpec
from quantization.recipe import Recipe

MODEL, DATASET, EVALUATION = "model.pt2", "dataset.safetensors", "evaluation.safetensors"


class JobFailed(Exception):
    """The program ended without a report."""


def write_inputs(folder: Path, model: Model, network: nn.Module, calibration: Tensors) -> None:
    """What jobs of this model share."""
    torch.export.save(export(network, calibration), folder / MODEL)
    save_file({name: tensor.contiguous() for name, tensor in calibration.items()}, folder / DATASET)
    evaluation = model.evaluation(model.evaluation_samples)
    save_file({name: tensor.contiguous() for name, tensor in evaluation.items()}, folder / EVALUATION)


def run_job(folder: Path, recipe: Recipe) -> dict[str, Any]:
    """Do a job in the folder of its inputs; its report. Raises JobFailed."""
    spec = JobSpec(model=MODEL, dataset=DATASET, evaluation_dataset=EVALUATION, recipe=recipe)
    (folder / JOB_FILE).write_text(spec.model_dump_json())
    out = folder / OUT_FOLDER
    shutil.rmtree(out, ignore_errors=True)  # of the preset before: its report would be taken for this one's
    command = [sys.executable, "-m", "quantization.run", str(folder)]
    ended = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    if (out / REPORT_FILE).exists():
        report: dict[str, Any] = json.loads((out / REPORT_FILE).read_bytes())
        return report
    if (out / ERROR_FILE).exists():
        raise JobFailed(json.loads((out / ERROR_FILE).read_bytes())["detail"])
    raise JobFailed(f"the program died with exit code {ended.returncode}")


def seconds(report: dict[str, Any]) -> float:
    """What calibrating and quantizing took."""
    timings: dict[str, float] = report["timings"]
    return timings["calibrating"] + timings["quantizing"]


def load(folder: Path) -> Call:
    """The quantized program that the last job wrote."""
    return torch.export.load(folder / OUT_FOLDER / PROGRAM_FILE).module()
