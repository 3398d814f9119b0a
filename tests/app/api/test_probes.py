"""Probes answer in time, and ask once for all."""

import asyncio
import threading
import time

import pytest

from app.api.probes import ANSWER_SECONDS, FRESH_SECONDS, Late, Probe


def test_a_thousand_who_ask_get_one_check() -> None:
    calls: list[float] = []

    def check() -> int:
        calls.append(time.monotonic())
        return len(calls)

    async def run() -> tuple[set[int], int]:
        probe = Probe(check)
        answers = {answer for _ in range(10) for answer in await asyncio.gather(*(probe.found() for _ in range(100)))}
        await asyncio.sleep(FRESH_SECONDS)
        return answers, await probe.found()

    assert asyncio.run(run()) == ({1}, 2)


def test_a_check_that_hangs_is_late_for_all_and_not_started_again() -> None:
    began, go_on = [], threading.Event()

    def check() -> str:
        began.append(1)
        go_on.wait(30)
        return "found"

    async def run() -> str:
        probe = Probe(check)
        for _ in range(2):
            started = time.monotonic()
            late = await asyncio.gather(*(probe.found() for _ in range(50)), return_exceptions=True)
            assert {type(answer) for answer in late} == {Late}
            assert time.monotonic() - started < ANSWER_SECONDS + 0.4
        assert began == [1]
        go_on.set()
        return await probe.found()

    assert asyncio.run(run()) == "found"


def test_what_a_check_raises_is_raised_until_it_is_tried_again() -> None:
    calls: list[int] = []

    def check() -> int:
        calls.append(1)
        if len(calls) == 1:
            raise ValueError("away")
        return 7

    async def run() -> int:
        probe = Probe(check)
        for _ in range(2):
            with pytest.raises(ValueError, match="away"):
                await probe.found()
        await asyncio.sleep(FRESH_SECONDS)
        return await probe.found()

    assert asyncio.run(run()) == 7


def test_a_late_check_says_what_it_found_lately_and_not_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.api.probes.FRESH_SECONDS", 0.0)
    monkeypatch.setattr("app.api.probes.KNOWN_SECONDS", 2 * ANSWER_SECONDS)
    calls, go_on = [], threading.Event()

    def check() -> str:
        calls.append(1)
        if len(calls) > 1:
            go_on.wait(30)
        return "found"

    async def run() -> None:
        probe = Probe(check)
        assert [await probe.found() for _ in range(2)] == ["found"] * 2
        await asyncio.sleep(2 * ANSWER_SECONDS)
        with pytest.raises(Late):
            await probe.found()
        go_on.set()
        assert await probe.found() == "found"

    asyncio.run(run())


def test_who_waits_gets_an_answer_though_others_begin_the_next_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy loop one who waited comes to its turn after another has begun to look again."""
    monkeypatch.setattr("app.api.probes.FRESH_SECONDS", 0.0)

    async def run() -> None:
        probe, asking = Probe(lambda: "found"), []
        for _ in range(500):
            asking.append(asyncio.create_task(probe.found()))
            await asyncio.sleep(0)
        assert set(await asyncio.gather(*asking)) == {"found"}

    asyncio.run(run())
