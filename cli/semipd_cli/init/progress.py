"""How far the start has come, one line per phase with its seconds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from enum import StrEnum

from semipd_agent.run_directory import RunDirectory
from semipd_cli.agent_client import AgentClient
from semipd_core.agent_config import AgentStatus
from semipd_core.errors import NotReadyYet
from semipd_core.partition import Role

_POLL_S = 0.2
_STILL_EVERY_S = 10.0
_LANE_ROLES = frozenset(Role)


class StartPhase(StrEnum):
    """In order; each implies those before it."""

    AGENT = "agent answers"
    MODEL = "model loaded"
    LANES = "lanes attached"
    READY = "ready"


def reached(status: AgentStatus | None, memory_servers_listening: int) -> StartPhase | None:
    """The last phase reached; None before the first. A memory server listens once its weights are loaded."""
    if status is None:
        return None
    if status.ready:
        return StartPhase.READY
    if status.engines and all(
        any(
            process.role in _LANE_ROLES and process.granted_percent is not None
            for process in engine.processes
        )
        and engine.granted is not None
        for engine in status.engines
    ):
        return StartPhase.LANES
    if status.engines and memory_servers_listening >= len(status.engines):
        return StartPhase.MODEL
    return StartPhase.AGENT


class StartClock:
    """Notes when each phase was reached, and says so; `now_s` is monotonic."""

    def __init__(self, started_s: float, say: Callable[[str], None]) -> None:
        self._started_s = started_s
        self._said_s = started_s
        self._say = say
        self._seconds: dict[str, float] = {}

    @property
    def seconds(self) -> Mapping[str, float]:
        """Seconds since the start by phase."""
        return self._seconds

    def note(self, phase: StartPhase | None, now_s: float) -> None:
        elapsed_s = now_s - self._started_s
        for known in StartPhase:
            if phase is not None and known not in self._seconds and _is_within(known, phase):
                before_s = max(self._seconds.values(), default=0.0)
                self._seconds[known.value] = round(elapsed_s, 3)
                self._said_s = now_s
                self._say(f"{known.value:<15}{elapsed_s:6.1f} s  (+{max(0.0, elapsed_s - before_s):.1f})")
        if now_s - self._said_s >= _STILL_EVERY_S:
            self._said_s = now_s
            waited_for = next(known for known in StartPhase if known.value not in self._seconds)
            self._say(f"waiting for “{waited_for.value}” since {elapsed_s:.0f} s")


def _is_within(phase: StartPhase, last: StartPhase) -> bool:
    order = list(StartPhase)
    return order.index(phase) <= order.index(last)


async def wait_until_ready(
    client: AgentClient, directory: RunDirectory, clock: StartClock, answered: Callable[[], None]
) -> AgentStatus:
    """Poll the agent until it is ready; `answered` is called each time it answers."""
    while True:
        status = await _status(client)
        if status is not None:
            answered()
        listening = len(list(directory.path.glob("engine-*/memory.sock")))
        phase = reached(status, listening)
        clock.note(phase, time.monotonic())
        if status is not None and phase is StartPhase.READY:
            return status
        await asyncio.sleep(_POLL_S)


async def _status(client: AgentClient) -> AgentStatus | None:
    try:
        return await client.status()
    except NotReadyYet:
        return None
