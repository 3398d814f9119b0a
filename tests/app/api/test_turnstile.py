"""A few begin in each turn of the event loop, in the order in which they came; none is forgotten."""

import asyncio

from app.api.turnstile import AT_ONCE, Turnstile


def test_few_begin_in_a_turn_and_in_order() -> None:
    async def run() -> tuple[list[int], list[int]]:
        turnstile, order, turns = Turnstile(), [], []

        async def begin(number: int) -> None:
            await turnstile.pass_through()
            order.append(number)

        tasks = [asyncio.create_task(begin(number)) for number in range(10 * AT_ONCE)]
        while not all(task.done() for task in tasks):
            before = len(order)
            await asyncio.sleep(0)
            turns.append(len(order) - before)
        return order, turns

    order, turns = asyncio.run(run())
    assert order == list(range(10 * AT_ONCE))
    assert max(turns) <= AT_ONCE


def test_who_went_away_while_waiting_keeps_nobody_out() -> None:
    async def run() -> None:
        turnstile = Turnstile(1)
        first, gone, last = (asyncio.create_task(turnstile.pass_through()) for _ in range(3))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.wait_for(asyncio.gather(first, last), 1)
        await asyncio.wait_for(turnstile.pass_through(), 1)

    asyncio.run(run())
