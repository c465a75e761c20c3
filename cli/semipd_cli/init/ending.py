"""The end of a service: its agent drains it, and is started again for that if need be; then everything is ended."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from semipd_agent.run_directory import RunDirectory
from semipd_agent.windows import FrontEndClient
from semipd_cli.agent_client import AgentClient
from semipd_cli.init.agent_keeper import AfterExit, AgentFailed, AgentKeeper
from semipd_cli.init.first_of import first_of
from semipd_cli.init.stop_signals import StopSignals
from semipd_core.errors import NotReadyYet

_ASK_S = 0.1
_EXIT_POLL_S = 0.05
_LATE_S = 1.0  # an agent that was asked at once ends its drain by itself within that
_STOP_S = 15.0  # for the agent to end its processes, beside the drain
_URGENT_S = 8.0  # for the same, in haste
_BETWEEN_SIGNALS_S = 0.5  # two at once would arrive as one
_QUIET_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainTime:
    """New requests are served for `lag_s`; what is open then has `timeout_s` more."""

    lag_s: float
    timeout_s: float

    @property
    def total_s(self) -> float:
        return self.lag_s + self.timeout_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    client: AgentClient
    keeper: AgentKeeper
    signals: StopSignals
    directory: RunDirectory
    say: Callable[[str], None]

    async def end(self, drain: DrainTime | None) -> None:
        """Drain (None: nothing can be open), end the agent, then whatever it has left behind.

        The agent has ended _STOP_S after the time to drain at the latest, however often it was started again in that time.
        """
        drain_s = drain.total_s if drain is not None else 0.0
        limit_s = time.monotonic() + drain_s + _STOP_S
        if drain is not None:
            await first_of(
                self.signals.wait_urgent(),
                asyncio.sleep(drain_s + _LATE_S),
                self._ask_each_agent(),
                self._until_drained(drain.lag_s),
            )
        is_in_haste = drain is None or self.signals.is_urgent
        await self._end_agent(min(limit_s, time.monotonic() + _URGENT_S) if is_in_haste else limit_s)
        await self.keeper.end_children()

    async def _ask_each_agent(self) -> None:
        """To drain, until it has taken the order; one that takes the place of a dead one knows of none. Until cancelled."""
        asked = 0
        while True:
            life = self.keeper.lives
            if life != asked and self.keeper.is_running:
                with contextlib.suppress(NotReadyYet):
                    await self.client.drain()
                    self.keeper.answered()
                    if self.keeper.lives == life:
                        asked = life
                        self.keeper.send(signal.SIGTERM)  # the next one is its second, which hurries it
            await asyncio.sleep(_ASK_S)

    async def _until_drained(self, lag_s: float) -> None:
        """An agent that dies meanwhile leaves requests open, and the next one takes them over."""
        try:
            step = await self.keeper.keep(self.say)
        except (AgentFailed, OSError):
            step = AfterExit.GIVE_UP
        if step is not AfterExit.FINISHED:
            self.say("no agent that could drain: waiting until nothing is open")
            await _until_nothing_is_open(self.directory, lag_s)

    async def _end_agent(self, deadline_s: float) -> None:
        for _ in range(2):  # at its second SIGTERM it waits for no request
            self.keeper.send(signal.SIGTERM)
            await self._until_ended(time.monotonic() + _BETWEEN_SIGNALS_S)
        await self._until_ended(deadline_s)
        self.keeper.send(signal.SIGKILL)
        await self._until_ended(float("inf"))

    async def _until_ended(self, deadline_s: float) -> None:
        while self.keeper.is_running and time.monotonic() < deadline_s:
            await asyncio.sleep(_EXIT_POLL_S)
            self.keeper.reap()


async def _until_nothing_is_open(directory: RunDirectory, lag_s: float) -> None:
    """For _QUIET_S after the lag, by the word of the front ends; one that says nothing has none.

    Without an agent nobody refuses new requests, nor replaces what dies. It does not last long: processes stop by themselves
    once they have had no agent for `agent_watch.GRACE_S`, and what is open then is cut.
    """
    front_ends = [FrontEndClient(str(socket)) for socket in directory.path.glob("engine-*/front.sock")]
    quiet_from_s = time.monotonic() + lag_s
    try:
        while time.monotonic() < quiet_from_s + _QUIET_S:
            windows = await asyncio.gather(*(front_end.window() for front_end in front_ends))
            if any(window is not None and window.open_requests for window in windows):
                quiet_from_s = max(quiet_from_s, time.monotonic())
            await asyncio.sleep(_ASK_S)
    finally:
        await asyncio.gather(*(front_end.close() for front_end in front_ends))
