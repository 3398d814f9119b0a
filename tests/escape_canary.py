"""Code that makes a file CANARY wherever it is run."""

from pathlib import Path


def payload(canary: Path) -> str:
    """Python text that makes the canary."""
    return f"__import__('pathlib').Path({str(canary)!r}).touch()"


class Touch:
    """A pickle that makes the canary."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, (payload(self.canary),)
