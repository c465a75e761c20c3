"""Replay a trace against a service while asking its agent what it does about it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from semipd_bench import load, outcome, timeline
from semipd_bench.agent_client import AgentClient
from semipd_bench.trace import Trace
from semipd_core.telemetry import SloTargets

POLL_S = 0.5
DRAIN_S = 60.0  # how long answers may take after the trace's end


@dataclass(slots=True, eq=False)
class Replay:
    """A run not begun, under way or over: what a live table shows and a report tells."""

    trace: Trace
    slo: SloTargets
    load: load.Load
    timeline: timeline.Timeline
    interrupted: bool = True  # until it has run to its end
    drain_expired: bool = False  # answers took longer than DRAIN_S after the last arrival
    duration_s: float = 0.0

    @property
    def outcomes(self) -> list[outcome.Outcome]:
        return self.load.outcomes

    @property
    def failed(self) -> int:
        """Requests given up by an interruption of the replay did not fail; those that a drain waited for did."""
        return sum(not o.is_complete and (self.drain_expired or not o.is_cancelled) for o in self.outcomes)

    @property
    def unsent(self) -> int:
        return len(self.trace.requests) - self.load.sent


def prepare_replay(
    target: load.Target,
    trace: Trace,
    slo: SloTargets,
    *,
    seed: str,
    clock: Callable[[], float] = time.monotonic,
) -> Replay:
    return Replay(
        trace=trace,
        slo=slo,
        load=load.Load(target, seed=seed, clock=clock),
        timeline=timeline.Timeline(started_unix_s=0.0),
    )


async def run_replay(
    state: Replay,
    target: load.Target,
    agent: AgentClient | None,
    *,
    show: Callable[[Replay], None],
    unix_clock: Callable[[], float] = time.time,
) -> None:
    """Send the whole trace, and call `show` at every poll.

    Cancelling ends the open requests; `state` then holds what there was, as it does after a drain that took too long.
    """
    async with load.open_client(target) as client:
        state.load.restart_clock()
        state.timeline.started_unix_s = unix_clock()
        try:
            async with _polling(state, agent, show), asyncio.timeout(state.trace.duration_s + DRAIN_S):
                await state.load.run(client, state.trace.requests)
                await asyncio.sleep(max(state.trace.duration_s - state.load.now_s, 0.0))
            state.interrupted = False
        except TimeoutError:
            state.drain_expired = True
        finally:
            state.duration_s = state.load.now_s


@contextlib.asynccontextmanager
async def _polling(
    state: Replay, agent: AgentClient | None, show: Callable[[Replay], None]
) -> AsyncIterator[None]:
    task = asyncio.create_task(_poll_forever(state, agent, show))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    if agent is not None:
        await state.timeline.poll(agent, state.load.now_s)


async def _poll_forever(state: Replay, agent: AgentClient | None, show: Callable[[Replay], None]) -> None:
    while True:
        if agent is not None:
            await state.timeline.poll(agent, state.load.now_s)
        show(state)
        await asyncio.sleep(POLL_S)
