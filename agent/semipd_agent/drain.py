"""Lets others see that the pod leaves, then waits until no request is open, at most for the drain timeout."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from semipd_agent.observer import EngineObserver
from semipd_shell import log

POLL_S = 0.1

_log = log.logger(__name__)


async def wait_for_open_requests(
    observers: Sequence[EngineObserver], timeout_s: float, hurry: asyncio.Event, lag_s: float = 0.0
) -> None:
    """Tell each front end to take no more after `lag_s`; return when all are idle, when time is up, or when `hurry` is set."""
    _log.info("draining", timeout_s=timeout_s, lag_s=lag_s)
    await asyncio.gather(*(observer.front_end.drain(lag_s) for observer in observers))
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(hurry.wait(), lag_s)
    try:
        await asyncio.wait_for(_until_idle(observers, hurry), timeout_s)
    except TimeoutError:
        _log.warning("requests are open at the end of the drain", timeout_s=timeout_s)


async def _until_idle(observers: Sequence[EngineObserver], hurry: asyncio.Event) -> None:
    while not hurry.is_set():
        if not any(await asyncio.gather(*map(_open_requests, observers))):
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(hurry.wait(), POLL_S)


async def _open_requests(observer: EngineObserver) -> int:
    """An engine that never served or has no front end has none; one that does not answer is taken to have one."""
    if not (observer.has_been_ready and observer.supervisor.children["frontend"].is_alive):
        return 0
    window = await observer.front_end.window()
    return 1 if window is None else window.open_requests
