"""What Zeropoint's presets and other software make of real models: one Markdown table a model.

python -m benchmarks.accuracy [MODEL ...] [--presets NAME ...] [--peers NAME ...]

Everyone gets the same calibration samples and is judged on the same others; docs/explanation/accuracy.md says how to
read it.
Models and peers that are not installed are named and left out; benchmarks/requirements.txt has them.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from benchmarks.comparison import zeropoint
from benchmarks.comparison.fidelity import Truth
from benchmarks.comparison.rows import Row, algorithm_lines, disagreement, table
from benchmarks.comparison.spent import Spent
from benchmarks.comparison.timing import in_float_passes
from benchmarks.models import MODELS
from benchmarks.models.files import Missing
from benchmarks.models.model import Model, Tensors
from benchmarks.peers import PEERS
from benchmarks.peers.peer import Peer, Quantized, stored_bytes
from zeropoint.schema.presets import PRESETS, Preset
from zeropoint.simulation.processor import features

STATIC = [name for name, preset in PRESETS.items() if preset.recipe.needs_dataset and preset.recipe.activations]


class Comparison:
    """One model with its data."""

    def __init__(self, model: Model, folder: Path) -> None:
        self.model, self.folder = model, folder
        self.network: nn.Module = model.load()
        self.calibration: Tensors = model.calibration(model.calibration_samples)
        self.truth = Truth(model, self.network)
        self.lines: list[str] = []
        """What is to be said below the table."""

    def presets(self, presets: list[Preset]) -> Iterator[Row]:
        """Zeropoint's rows."""
        if presets:
            zeropoint.write_inputs(self.folder, self.model, self.network, self.calibration)
        for preset in presets:
            try:
                yield self._preset(preset)
            except Exception as error:
                yield Row(preset.name, f"fails: {_first_line(error)}")

    def _preset(self, preset: Preset) -> Row:
        jobs: list[zeropoint.Done] = []

        def work() -> Spent:
            jobs.append(zeropoint.run_job(self.folder, preset.recipe))
            return jobs[-1].spent

        passes = in_float_passes(work, self.network, self.calibration)
        report = jobs[-1].report
        fidelity, summary = self.truth.judge(zeropoint.load(self.folder)), report["summary"]
        self.lines += [*algorithm_lines(preset.name, report), *disagreement(preset.name, fidelity, report)]
        size = summary["quantized_bytes"] / summary["original_bytes"]
        return Row(preset.name, fidelity=fidelity, size=size, verdict=report["verdict"], passes=passes)

    def peers(self, peers: list[Peer]) -> Iterator[Row]:
        """The rows of other software."""
        for peer in peers:
            try:
                yield self._peer(peer)
            except ModuleNotFoundError as error:
                yield Row(peer.name, f"not installed ({_first_line(error)})")
            except Exception as error:
                yield Row(peer.name, f"fails: {_first_line(error)}")

    def _peer(self, peer: Peer) -> Row:
        made: list[Quantized] = []

        def work() -> Spent:
            made[:] = [peer.quantize(self.network, self.calibration, self.folder)]
            return made[0].spent

        passes = in_float_passes(work, self.network, self.calibration)
        size = made[0].stored_bytes / stored_bytes(self.network)
        return Row(peer.name, fidelity=self.truth.judge(made[0].call), size=size, passes=passes)


def compare(model: Model, presets: list[Preset], peers: list[Peer]) -> None:
    """Print the table of a model, or why there is none."""
    with TemporaryDirectory() as folder:
        try:
            with redirect_stdout(sys.stderr):  # where libraries chat
                comparison = Comparison(model, Path(folder))
                rows = [*comparison.presets(presets), *comparison.peers(peers)]
        except (Missing, ModuleNotFoundError) as missing:
            print(f"{model.name}: not measured, {missing}")
            return
    judging = comparison.truth.outputs[0].shape[0]
    samples = f"{model.calibration_samples} calibration samples, {judging} others for SQNR"
    machine = f"{torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}; {features()}"
    print(f"\n## {model.name}\n\n{samples}; {machine}\n")
    print("\n".join([table(comparison.truth.quality, rows), "", *comparison.lines]), flush=True)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].replace("|", "/")


def main() -> None:
    """Compare on every model that was named."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy")
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"{', '.join(MODELS)} (default: all)")
    parser.add_argument("--presets", nargs="*", choices=PRESETS, default=STATIC)
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    chosen = parser.parse_args()
    unknown = set(chosen.models) - set(MODELS)
    if unknown:
        parser.error(f"no such model: {', '.join(sorted(unknown))}")
    for name in chosen.models or MODELS:
        compare(MODELS[name], [PRESETS[preset] for preset in chosen.presets], [PEERS[peer] for peer in chosen.peers])


if __name__ == "__main__":
    main()
