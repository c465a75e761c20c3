"""The command line of every process that the agent starts. The modules are the engine's, which the agent never imports."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from semipd_agent.run_directory import RunDirectory


def _module(name: str) -> tuple[str, ...]:
    return (sys.executable, "-m", name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Commands:
    """What to run, without arguments. Tests put other programs in their place."""

    zygote: tuple[str, ...] = _module("semipd_engine.lane.zygote")
    proxy: tuple[str, ...] = _module("semipd_engine.proxy")
    memory: tuple[str, ...] = _module("semipd_engine.memory")
    coordinator: tuple[str, ...] = _module("semipd_engine.coordinator")
    frontend: tuple[str, ...] = _module("semipd_engine.frontend")
    mps_control: tuple[str, ...] = ("nvidia-cuda-mps-control",)

    @property
    def all(self) -> tuple[tuple[str, ...], ...]:
        """Those that name the run directory in their arguments; the MPS daemon does so in its environment."""
        return (self.zygote, self.proxy, self.memory, self.coordinator, self.frontend)

    def of_engine(self, role: str, config_path: Path) -> tuple[str, ...]:
        """`role`: memory, coordinator or frontend."""
        program: tuple[str, ...] = getattr(self, role)
        return (*program, "--config", str(config_path))

    def of_zygote(self, run_directory: RunDirectory) -> tuple[str, ...]:
        return (
            *self.zygote,
            "--socket",
            str(run_directory.zygote_socket),
            "--agent-lock",
            str(run_directory.agent_lock),
        )

    def of_proxy(self, run_directory: RunDirectory) -> tuple[str, ...]:
        return (*self.proxy, "--config", str(run_directory.proxy_config))
