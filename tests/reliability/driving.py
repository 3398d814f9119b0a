"""The other end of the driver."""

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tests.reliability.effects import KILLED, TOLD

Order = Mapping[str, Any]
"""Where an operation happens and what it is given: see `World.order`."""

HOW = {"kill": KILLED, "tell": TOLD}


@dataclass(frozen=True)
class Driver:
    """Does an operation to its end, or until it is stopped before one of its effects."""

    process: subprocess.Popen[str]

    def steps(self, order: Order) -> list[str]:
        """The effects of a run that nothing stops."""
        code, labels = self._answer({**order, "stop_before": None, "how": "kill"})
        assert code == 0
        return labels

    def stop(self, order: Order, point: int, how: Literal["kill", "tell"] = "kill") -> None:
        """Die there, or be told to end there (SIGTERM)."""
        code, _ = self._answer({**order, "stop_before": point, "how": how})
        assert code == HOW[how]

    def _answer(self, order: Order) -> tuple[int, list[str]]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        return answer["code"], answer["labels"]
