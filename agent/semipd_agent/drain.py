"""Lets others see that the pod leaves, then waits until no request is open, at most for the drain timeout."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

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
    clock = asyncio.get_running_loop()
    deadline_s = clock.time() + lag_s + timeout_s
    if proxy is not None:
        proxy.ask_to_end()
        await _until(_has_ended(proxy), deadline_s, hurry)
        lag_s = 0.0
    leaving = [_Leaving(observer, clock.time() + lag_s) for observer in observers]
    if not await _until(_are_idle(leaving, QUIET_S if lag_s else 0.0), deadline_s, hurry):
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


@dataclass(slots=True, eq=False)
class _Leaving:
    """A front end that is asked to leave until it has taken the order. `closes_s`: of the event loop's clock."""

    observer: EngineObserver
    closes_s: float
    _has_taken_it: bool = False

    async def is_idle(self) -> bool:
        """Closed, and nothing is open; not so as long as it does not answer. One that is not there has nothing open."""
        if not self._is_there:
            return True
        front_end, lag_s = self.observer.front_end, self.closes_s - asyncio.get_running_loop().time()
        self._has_taken_it = self._has_taken_it or await front_end.drain(max(0.0, lag_s))
        if not self._has_taken_it or lag_s > 0:
            return False
        window = await front_end.window()
        return window is not None and not window.open_requests

    @property
    def _is_there(self) -> bool:
        """It may have served, if only under the agent before this one."""
        supervisor = self.observer.supervisor
        return supervisor.children["frontend"].is_alive and Path(supervisor.config.front_socket).exists()


def _are_idle(leaving: Sequence[_Leaving], quiet_s: float) -> Callable[[], Awaitable[bool]]:
    """For `quiet_s` on end."""
    clock = asyncio.get_running_loop()
    busy_s = clock.time()

    async def is_done() -> bool:
        nonlocal busy_s
        if not all(await asyncio.gather(*(front_end.is_idle() for front_end in leaving))):
            busy_s = clock.time()
            return False
        return clock.time() - busy_s >= quiet_s

    return is_done
