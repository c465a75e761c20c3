"""The queue: once each, never two turns of one key at a time, and nothing is forgotten."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import httpx2
import pytest

from semipd_operator import work_queue
from semipd_operator.work_queue import WorkQueue
from semipd_shell.informer import Key

A, B = Key("team", "a"), Key("team", "b")


async def settle(queue: WorkQueue, workers: int = 4) -> None:
    running = asyncio.create_task(queue.run(workers))
    async with asyncio.timeout(5):
        while len(queue):
            await asyncio.sleep(0.001)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize(
    ("asked_for", "delays_s"),
    [
        pytest.param(["/a", "/a", "/a"], [1.0, 2.0, 4.0], id="the same again: later each time"),
        pytest.param(["/a", "/b", "/c"], [1.0, 1.0, 1.0], id="another one each time: it comes further"),
    ],
)
async def test_how_long_a_turn_that_failed_waits(
    asked_for: list[str], delays_s: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    loop = asyncio.get_running_loop()
    call_later = loop.call_later

    def note(delay_s: float, *args: Any) -> asyncio.TimerHandle:
        waits.append(delay_s)
        return call_later(delay_s, *args)

    monkeypatch.setattr(loop, "call_later", note)
    queue = WorkQueue(settle)  # type: ignore[arg-type]
    for path in asked_for:
        request = httpx2.Request("PATCH", f"http://server{path}")
        queue._retry(A, httpx2.ReadError("reset", request=request))
    assert waits == delays_s
    response = httpx2.Response(429, headers={"Retry-After": "9"})
    queue._retry(B, httpx2.HTTPStatusError("busy", request=request, response=response))
    assert waits[-1] == 9.0, "as a busy server asks"


async def test_a_key_that_was_added_often_gets_one_turn() -> None:
    turns: Counter[Key] = Counter()

    async def handle(key: Key) -> None:
        turns[key] += 1

    queue = WorkQueue(handle)
    for key in (A, A, B, A):
        queue.add(key)
    await settle(queue)
    assert turns == {A: 1, B: 1}


async def test_a_key_that_is_added_during_its_turn_gets_one_more_and_never_two_at_once() -> None:
    busy, most, turns = 0, 0, 0

    async def handle(key: Key) -> None:
        nonlocal busy, most, turns
        busy, turns = busy + 1, turns + 1
        most = max(most, busy)
        if turns == 1:
            queue.add(key)
            queue.add(key)
        await asyncio.sleep(0.01)
        busy -= 1

    queue = WorkQueue(handle)
    queue.add(A)
    await settle(queue)
    assert (turns, most) == (2, 1)


async def test_a_turn_that_fails_comes_again_and_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_queue, "FIRST_DELAY_S", 0.01)
    turns: list[Key] = []

    async def handle(key: Key) -> None:
        turns.append(key)
        if turns.count(A) < 3 and key == A:
            raise OSError("the API server is away")

    queue = WorkQueue(handle)
    running = asyncio.create_task(queue.run(1))
    queue.add(A)
    queue.add(B)
    async with asyncio.timeout(5):
        while turns.count(A) < 3:
            await asyncio.sleep(0.001)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert Counter(turns) == {A: 3, B: 1}


async def test_turns_from_news_begin_no_row_of_turns_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often a key fails, one timer waits for it; none once it has gone well."""
    loop = asyncio.get_running_loop()
    call_later = loop.call_later
    timers: list[asyncio.TimerHandle] = []

    def note(delay_s: float, callback: Any, *args: Any) -> asyncio.TimerHandle:
        timer = call_later(delay_s, callback, *args)
        if args == (A,):
            timers.append(timer)
        return timer

    monkeypatch.setattr(loop, "call_later", note)
    monkeypatch.setattr(work_queue, "FIRST_DELAY_S", work_queue.MAX_DELAY_S)
    is_well = False

    async def handle(key: Key) -> None:
        if not is_well:
            raise OSError("the API server is away")

    queue = WorkQueue(handle)
    for _ in range(5):
        queue.add(A)
        await settle(queue)
    assert [timer.cancelled() for timer in timers] == [True, True, True, True, False]
    is_well = True
    queue.add(A)
    await settle(queue)
    assert all(timer.cancelled() for timer in timers)
