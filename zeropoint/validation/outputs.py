"""Compare each output of the float and the saved model: SQNR of floats, agreement of integers and bools."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from zeropoint.data.batches import ModelOutputs
from zeropoint.metrics.sqnr import Cosine, Noise, Share, finite, pooled
from zeropoint.schema.report import OutputReport


@dataclass
class Output:
    """The running comparison of one output tensor."""

    name: str
    dtype: torch.dtype
    noise: Noise = field(default_factory=Noise)
    cosine: Cosine = field(default_factory=Cosine)
    equal: Share = field(default_factory=Share)
    """The share of equal elements."""

    @property
    def floating(self) -> bool:
        """Whether the output has an SQNR; integers and bools have an agreement."""
        return self.dtype.is_floating_point or self.dtype.is_complex

    @property
    def exact(self) -> bool:
        """Whether every element is equal."""
        return self.noise.exact if self.floating else self.equal.count == self.equal.total

    def add(self, reference: Tensor, value: Tensor) -> None:
        """Add two tensors of one shape and dtype."""
        self.equal.count += int((reference == value).sum())
        self.equal.total += reference.numel()
        if self.floating:
            pair = [torch.view_as_real(t) if t.is_complex() else t for t in (reference.resolve_conj(), value)]
            self.noise.add(*pair)
            self.cosine.add(*pair)

    def report(self) -> OutputReport:
        """Return the numbers as the report has them."""
        return OutputReport(
            name=self.name,
            dtype=str(self.dtype).removeprefix("torch."),
            sqnr_db=finite(self.noise.db) if self.floating else None,
            agreement=None if self.floating else self.equal.value,
            exact=self.exact,
        )


@dataclass
class Outputs:
    """The comparison of all output tensors of a model, by position."""

    by_position: dict[int, Output] = field(default_factory=dict)

    def add(self, expected: Sequence[object], got: Mapping[int, Tensor]) -> bool:
        """Add one batch; return False, with nothing added, if a tensor is missing or has another shape or dtype."""
        names = expected.names if isinstance(expected, ModelOutputs) else [str(place) for place in range(len(expected))]
        pairs = []
        for position, reference in enumerate(expected):
            if isinstance(reference, Tensor):
                value = got.get(position)
                if value is None or value.shape != reference.shape or value.dtype != reference.dtype:
                    return False
                pairs.append((position, reference.cpu(), value))
        for position, reference, value in pairs:
            output = self.by_position.setdefault(position, Output(names[position], reference.dtype))
            output.add(reference, value)
        return True

    @property
    def floating(self) -> list[Output]:
        """The floating outputs, in order."""
        return [output for output in self.by_position.values() if output.floating]

    @property
    def counted(self) -> list[Output]:
        """The outputs that are not floating, in order."""
        return [output for output in self.by_position.values() if not output.floating]

    @property
    def noise(self) -> Noise:
        """Signal and noise over the floating outputs that quantization changed; over all if it changed none."""
        return pooled(output.noise for output in self.floating)

    @property
    def cosine(self) -> float | None:
        """Cosine similarity over the same outputs."""
        outputs, total = self.floating, Cosine()
        for output in [output for output in outputs if not output.exact] or outputs:
            total.join(output.cosine)
        return total.value

    @property
    def exact(self) -> bool:
        """Whether there are outputs, and every element of every one is equal."""
        return bool(self.by_position) and all(output.exact for output in self.by_position.values())

    @property
    def worst_db(self) -> float | None:
        """The lowest SQNR of a floating output that quantization changed; None where there is none."""
        values = [db for output in self.floating if (db := finite(output.noise.db)) is not None]
        return min(values, default=None)

    @property
    def worst_agreement(self) -> float | None:
        """The lowest share of equal elements of an integer or bool output; None where there is none."""
        return min((share for output in self.counted if (share := output.equal.value) is not None), default=None)

    def reports(self) -> list[OutputReport]:
        """Return the numbers of each output, in order."""
        return [output.report() for _, output in sorted(self.by_position.items())]
