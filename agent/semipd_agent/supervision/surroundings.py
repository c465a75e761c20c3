"""What an engine's supervisor is given: where things are, what to run, whom to ask for lanes."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from semipd_agent.commands import Commands
from semipd_agent.device.host_memory import read_free_bytes
from semipd_agent.journal.file import Journal
from semipd_agent.run_directory import RunDirectory
from semipd_agent.supervision.zygote_client import ForkRequest
from semipd_core.agent_config import StandbySettings


def _no_reason() -> str | None:
    return None


def _host_free_bytes(_gpu: str | None) -> int | None:
    return read_free_bytes()


async def _just_kill(_pid: int) -> None:
    return


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What all engines of an agent share. `fork` raises ForkRefused or ForkUnknown.

    Under MPS: `lanes_may_start` is false until its server is active, `why_lanes_must_end` tells of a FAULT, and
    `before_kill` ends a lane's work on the GPU, since killing a busy client is undefined behaviour.
    On a GPU: `why_no_start` holds memory server and lanes, `why_no_switch` new splits, and `why_engine_must_end` ends what
    uses the GPU: after a loss its memory is not what it was.
    `free_bytes` is asked with the engine's GPU: of the memory that lanes take, None where nobody knows; `free_bytes_read_s`
    says of when that is (monotonic).
    """

    run_directory: RunDirectory
    commands: Commands
    journal: Journal
    fork: Callable[[ForkRequest], Awaitable[int]]
    is_zygote_ready: Callable[[], bool]
    lanes_may_start: Callable[[], bool] = lambda: True
    why_lanes_must_end: Callable[[], str | None] = _no_reason
    before_kill: Callable[[int], Awaitable[None]] = _just_kill
    why_no_start: Callable[[], str | None] = _no_reason
    why_no_switch: Callable[[], str | None] = _no_reason
    why_engine_must_end: Callable[[], str | None] = _no_reason
    free_bytes: Callable[[str | None], int | None] = _host_free_bytes
    free_bytes_read_s: Callable[[], float] = time.monotonic
    standby: StandbySettings = field(default_factory=StandbySettings)
    lane_environment: Mapping[str, str] = field(default_factory=dict)
    child_environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sockets:
    memory: Path
    coordinator: Path
    front: Path

    def of(self, role: str) -> Path:
        return {"memory": self.memory, "coordinator": self.coordinator, "frontend": self.front}[role]
