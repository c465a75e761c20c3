"""What an engine's supervisor is given: where things are, what to run, whom to ask for lanes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from semipd_agent.commands import Commands
from semipd_agent.journal.file import Journal
from semipd_agent.run_directory import RunDirectory
from semipd_agent.supervision.zygote_client import ForkRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What all engines of an agent share. `fork` raises ForkRefused or ForkUnknown."""

    run_directory: RunDirectory
    commands: Commands
    journal: Journal
    fork: Callable[[ForkRequest], Awaitable[int]]
    is_zygote_ready: Callable[[], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sockets:
    memory: Path
    coordinator: Path
    front: Path

    def of(self, role: str) -> Path:
        return {"memory": self.memory, "coordinator": self.coordinator, "frontend": self.front}[role]
