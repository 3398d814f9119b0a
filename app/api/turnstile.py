"""A turnstile: of many requests that come at once a few begin in each turn of the event loop, and probes pass it.

The first steps of a request take a millisecond or two of the event loop. Of a thousand that come together the last one
waits for all others, as it must; a probe that comes with them does not.
"""

import asyncio
from collections import deque

AT_ONCE = 8


class Turnstile:
    """Used on the event loop's thread alone."""

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self._at_once = at_once
        self._free = at_once
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._turning = False

    async def pass_through(self) -> None:
        """Return in this turn of the event loop, or in a later one, in the order in which they came."""
        if self._waiting or not self._free:
            passed = asyncio.get_running_loop().create_future()
            self._waiting.append(passed)
            await passed
        else:
            self._free -= 1
            self._turn_soon()

    def _turn_soon(self) -> None:
        if not self._turning:
            self._turning = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._turning = False
        self._free = self._at_once
        while self._free and self._waiting:
            passed = self._waiting.popleft()
            if not passed.done():  # else its request was cancelled
                passed.set_result(None)
                self._free -= 1
        if self._free < self._at_once:
            self._turn_soon()
