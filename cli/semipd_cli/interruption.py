"""The end of a command that has started services of its own: it ends them before it ends."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def end_on_signals() -> None:
    """The first of SIGINT, SIGTERM and SIGHUP cancels the task that calls this.

    More of them change nothing: what ends its services must not be interrupted, and takes a minute at most.
    """
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    ending = asyncio.Event()

    def end() -> None:
        if not ending.is_set():
            ending.set()
            task.cancel()

    for number in _SIGNALS:
        loop.add_signal_handler(number, end)


def run_until_signalled(measure: Coroutine[Any, Any, _T]) -> _T:
    """Raises: KeyboardInterrupt after a signal, once `measure` has ended what it had started."""

    async def run() -> _T:
        end_on_signals()
        return await measure

    try:
        return asyncio.run(run())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
