"""A pass over calibration samples that can be interrupted between batches and resumed elsewhere with the same result.

Its state is what the collectors saw, the buffers that a forward pass changes, the state of the random generators (a
program exported in training mode applies dropout), and the number of batches done.

That is the whole state of an exported program, whose graph lists the buffers that it writes. A Python module may keep
more state in its attributes, and a generator of samples can't be read from the middle, so neither is ever resumed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from zeropoint.data.batches import Batches
from zeropoint.data.dataset import Dataset
from zeropoint.files.checkpoints import Checkpoints, State, Tensors
from zeropoint.model.source import Source
from zeropoint.observers.statistics import Collector

NAME = "calibrating"


@dataclass
class Pass:
    """A pass of `source` that has finished `done` batches, observed by `collectors`, by layer name."""

    source: Source
    collectors: dict[str, Collector]
    done: int = 0

    def resume(self, checkpoints: Checkpoints) -> None:
        """Continue from the checkpoint if there is one of the same layers and buffers, else from the first batch."""
        self.source.reset()
        if checkpoints.load(NAME, self._take_over) is not None:
            checkpoints.note_resumed("calibrating")

    def keep(self, checkpoints: Checkpoints) -> None:
        """Write a checkpoint of the pass."""
        states = {name: collector.state() for name, collector in self.collectors.items()}
        tensors = {f"{name}.{part}": t for name, (_, parts) in states.items() for part, t in parts.items()}
        buffers = {name: self.source.module.get_buffer(name).cpu().clone() for name in self.source.changing}
        state: dict[str, Any] = {
            "done": self.done,
            "collectors": {name: [numbers, list(parts)] for name, (numbers, parts) in states.items()},
        }
        random = {f"random:{place}": numbers for place, numbers in _random(self.source.device).items()}
        checkpoints.save(NAME, state, tensors | random | {f"buffer:{name}": t for name, t in buffers.items()})

    def remaining(self, samples: Batches) -> Iterable[Sequence[Tensor]]:
        """Return the remaining batches; with samples in a file, the earlier ones are not read."""
        return samples.after(self.done) if isinstance(samples, Dataset) else islice(samples, self.done, None)

    def _take_over(self, state: State, tensors: Tensors) -> int:
        """Restore the pass from a checkpoint, and return how many batches were done.

        Raises ValueError or KeyError, before anything changes, when the checkpoint is of other layers or buffers.
        """
        collectors = {
            name: Collector.restored(numbers, {part: tensors[f"{name}.{part}"] for part in parts}, self.source.device)
            for name, (numbers, parts) in state["collectors"].items()
        }
        wishes = {name: collector.wants for name, collector in self.collectors.items()}
        if {name: collector.wants for name, collector in collectors.items()} != wishes:
            raise ValueError("it is of other layers")
        buffers = {name: tensors[f"buffer:{name}"] for name in self.source.changing}
        if any(buffers[name].shape != value.shape for name, value in self.source.changing.items()):
            raise ValueError("it is of other buffers")
        random = {place: tensors[f"random:{place}"] for place in _random(self.source.device)}
        _set_random(random)
        self.source.put(buffers)
        self.collectors.update((name, collectors[name]) for name in wishes)
        self.done = int(state["done"])
        return self.done


def _random(device: str) -> dict[str, Tensor]:
    """Return the state of each random generator that a forward pass uses, uint8 [n], by device."""
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state()} if device == "cuda" else {})


def _set_random(states: Tensors) -> None:
    """Set the states of the random generators. Raises RuntimeError when they are not valid."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"])
