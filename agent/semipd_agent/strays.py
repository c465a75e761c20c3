"""Ends processes that nobody accounts for, and waits until they are gone: they could still write."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from signal import SIGKILL, SIGTERM

from semipd_agent.processes import process
from semipd_agent.processes.identity import Identity
from semipd_agent.supervision.actions import KILL_AFTER_S
from semipd_shell import log

_log = log.logger(__name__)


BeforeKill = Callable[[int], Awaitable[None]]


async def _just_kill(_pid: int) -> None:
    return


async def end_strays(strays: Sequence[Identity], before_kill: BeforeKill = _just_kill) -> None:
    """`before_kill` gets the pid of each that does not end by itself: it may be a lane."""
    await asyncio.gather(*(_end(identity, before_kill) for identity in strays))


async def _end(identity: Identity, before_kill: BeforeKill) -> None:
    ended = asyncio.Event()
    stray = process.adopt(identity, ended.set)
    if stray is None:
        return
    _log.warning("stray process ended", process_pid=identity.pid)
    stray.send_signal(SIGTERM)
    try:
        await asyncio.wait_for(ended.wait(), KILL_AFTER_S)
    except TimeoutError:
        await before_kill(identity.pid)
        stray.send_signal(SIGKILL)
        await ended.wait()
