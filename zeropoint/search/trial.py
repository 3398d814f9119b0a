"""Improving: each algorithm of the recipe is tried on the layers as they are, and stays only if the gate says so."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from zeropoint.algorithms import ALGORITHMS
from zeropoint.algorithms.context import Bench, Layers
from zeropoint.metrics.sqnr import Noise, finite
from zeropoint.schema.algorithms import AlgorithmSettings
from zeropoint.schema.report import AlgorithmReport
from zeropoint.simulation.measure import Judge


@dataclass(frozen=True)
class Improved:
    """The layers as they are now, what the gate says of them, and every step that led there."""

    layers: Layers
    noise: Noise
    steps: tuple[AlgorithmReport, ...] = ()
    tried: tuple[AlgorithmSettings, ...] = ()
    """What was tried on these very layers: to try it again changes nothing."""


Step = Callable[[Improved], None]


def begin(gate: Judge, layers: Layers) -> Improved:
    """The layers that nothing was done to."""
    return Improved(layers, gate.noise(layers.values()))


def improve(
    bench: Bench, gate: Judge, now: Improved, pieces: Sequence[AlgorithmSettings], step: Step = lambda _: None
) -> Improved:
    """Try these pieces in their order; `step` is called after each with what came of it."""
    for piece in pieces:
        if piece not in now.tried:
            now = _tried(bench, gate, now, piece)
        step(now)
    return now


def _folded(bench: Bench, now: Improved, piece: AlgorithmSettings) -> Improved:
    """What was done when the model was opened: it is exact, and there is nothing to judge."""
    layers = len([layer for layer in bench.source.layers if layer.reason == "folded"])
    db = finite(now.noise.db)
    reason = "It changes no result." if layers else "No normalization that goes into the convolution before it."
    step = _step(piece, layers, (db, db if layers else None), reason, kept=layers > 0)
    return replace(now, steps=(*now.steps, step), tried=(*now.tried, piece))


def _tried(bench: Bench, gate: Judge, now: Improved, piece: AlgorithmSettings) -> Improved:
    if piece.kind == "fold_normalization":
        return _folded(bench, now, piece)
    algorithm = ALGORITHMS[piece.kind]
    changed = algorithm.run(piece, bench, now.layers)
    refused = replace(now, tried=(*now.tried, piece))
    if not changed:
        return replace(refused, steps=(*now.steps, _report(piece, now.noise, None, 0, kept=False)))
    layers = {name: one for name, one in {**now.layers, **changed}.items() if one is not None}
    noise = gate.noise(layers.values())
    kept = rises(now.noise, noise, algorithm.least_gain_db)
    steps = (*now.steps, _report(piece, now.noise, noise, len(changed), kept=kept))
    return Improved(layers, noise, steps, (piece,)) if kept else replace(refused, steps=steps)


def rises(before: Noise, after: Noise, least_gain_db: float) -> bool:
    """Whether the noise fell by so much at least, and fell at all; noise that is no number never passes."""
    return after.noise < before.noise * 10 ** (-least_gain_db / 10)


def _report(
    piece: AlgorithmSettings, before: Noise, after: Noise | None, layers: int, *, kept: bool
) -> AlgorithmReport:
    old, new = finite(before.db), None if after is None else finite(after.db)
    least = ALGORITHMS[piece.kind].least_gain_db
    if after is None:
        reason = "No layer that the piece is meant for."
    elif old is None or new is None:
        reason = "SQNR is no number." if not kept else "SQNR became a number."
    elif kept:
        reason = f"SQNR rose by {new - old:.2f} dB."
    elif new > old:
        reason = f"SQNR rose by {new - old:.2f} dB, and at least {least:g} dB are asked of this piece."
    else:
        reason = f"SQNR fell by {old - new:.2f} dB." if new < old else "SQNR stayed as it was."
    return _step(piece, layers, (old, new), reason, kept=kept)


def _step(
    piece: AlgorithmSettings, layers: int, db: tuple[float | None, float | None], reason: str, *, kept: bool
) -> AlgorithmReport:
    return AlgorithmReport(
        algorithm=piece.kind,
        settings=piece.model_dump(mode="json", exclude={"kind"}),
        layers=layers,
        before_db=db[0],
        after_db=db[1],
        kept=kept,
        reason=reason,
    )
