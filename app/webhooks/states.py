"""What becomes of a delivery, and when it is tried again."""

import random
from datetime import timedelta
from enum import StrEnum


class DeliveryState(StrEnum):
    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"
    """Nobody took it for a day; it can be sent again by hand."""


DAY = timedelta(days=1)
FIRST_PAUSE = timedelta(seconds=5)
LONGEST_PAUSE = timedelta(hours=4)
JITTER = 0.1
"""Targets that were away are not called by all that waits for them at the same moment."""


def pause_after(tried_for: timedelta, asked: timedelta | None = None) -> timedelta:
    """Return how long to wait after a failure: as long again as it was tried so far, or as the target asks for.

    So pauses double, from FIRST_PAUSE to LONGEST_PAUSE: about 16 attempts a day.
    """
    usual = min(max(tried_for, FIRST_PAUSE), LONGEST_PAUSE) * random.uniform(1 - JITTER, 1 + JITTER)
    return max(usual, min(asked, LONGEST_PAUSE)) if asked else usual
