"""Lets others see that the pod leaves, then waits until no request is open, at most for the drain timeout."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence

from semipd_agent.observer import EngineObserver
from semipd_agent.supervision.shared import SharedProcess
from semipd_shell import log

POLL_S = 0.1
QUIET_S = (
    1.0  # a front end closes idle connections within that after the lag, and answers what has come until then
)

_log = log.logger(__name__)


async def wait_for_open_requests(
    observers: Sequence[EngineObserver],
    proxy: SharedProcess | None,
    timeout_s: float,
    hurry: asyncio.Event,
    lag_s: float = 0.0,
) -> None:
    """Take no connections after `lag_s`; return when all are idle, when `timeout_s` more are over, or when `hurry` is set.

    Behind a proxy it is the proxy that closes: a front end that did would refuse what the proxy has taken and not yet passed on.
    """
    _log.info("draining", timeout_s=timeout_s, lag_s=lag_s)
    deadline_s = asyncio.get_running_loop().time() + lag_s + timeout_s
    if proxy is not None:
        proxy.ask_to_end()
        await _until(_has_ended(proxy), deadline_s, hurry)
        lag_s = 0.0
    await asyncio.gather(*(observer.front_end.drain(lag_s) for observer in observers))
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(hurry.wait(), lag_s)
    if not await _until(_are_idle(observers, QUIET_S if lag_s else 0.0), deadline_s, hurry):
        _log.warning("requests are open at the end of the drain", timeout_s=timeout_s)


async def _until(is_done: Callable[[], Awaitable[bool]], deadline_s: float, hurry: asyncio.Event) -> bool:
    """False: the time was over first."""
    while not (hurry.is_set() or await is_done()):
        if asyncio.get_running_loop().time() >= deadline_s:
            return False
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(hurry.wait(), POLL_S)
    return True


def _has_ended(proxy: SharedProcess) -> Callable[[], Awaitable[bool]]:
    async def is_done() -> bool:
        return not proxy.child.is_alive

    return is_done


def _are_idle(observers: Sequence[EngineObserver], quiet_s: float) -> Callable[[], Awaitable[bool]]:
    """For `quiet_s` on end."""
    clock = asyncio.get_running_loop()
    busy_s = clock.time()

    async def is_done() -> bool:
        nonlocal busy_s
        if any(await asyncio.gather(*map(_open_requests, observers))):
            busy_s = clock.time()
            return False
        return clock.time() - busy_s >= quiet_s

    return is_done


async def _open_requests(observer: EngineObserver) -> int:
    """An engine that never served or has no front end has none; one that does not answer is taken to have one."""
    if not (observer.has_been_ready and observer.supervisor.children["frontend"].is_alive):
        return 0
    window = await observer.front_end.window()
    return 1 if window is None else window.open_requests
