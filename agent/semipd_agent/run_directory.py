"""Where things are under a run directory (design 0001, "Files under the run directory")."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

LOG_FILE_VARIABLE = "SEMIPD_LOG_FILE"


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """`path` is absolute and private to the user."""

    path: Path

    @property
    def service_config(self) -> Path:
        return self.path / "service.json"

    @property
    def agent_lock(self) -> Path:
        return self.path / "agent.lock"

    @property
    def agent_socket(self) -> Path:
        return self.path / "agent.sock"

    @property
    def journal(self) -> Path:
        return self.path / "journal.jsonl"

    @property
    def wish_file(self) -> Path:
        return self.path / "wish.json"

    @property
    def zygote_socket(self) -> Path:
        return self.path / "zygote.sock"

    @property
    def proxy_config(self) -> Path:
        return self.path / "proxy.json"

    @property
    def proxy_error(self) -> Path:
        return self.path / "proxy-error.json"

    @property
    def mps_pipes(self) -> Path:
        return self.path / "mps" / "pipe"

    @property
    def mps_logs(self) -> Path:
        return self.path / "mps" / "log"

    @property
    def no_mps_pipes(self) -> Path:
        """Where nobody listens: for processes that must stay outside MPS."""
        return self.path / "mps" / "none"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    def engine(self, engine_id: str) -> Path:
        return self.path / engine_id

    def engine_config(self, engine_id: str) -> Path:
        return self.engine(engine_id) / "engine.json"

    def log(self, name: str) -> Path:
        """One file per process; in a pod all of them write to the container's own output, which LOG_FILE_VARIABLE names."""
        shared = os.environ.get(LOG_FILE_VARIABLE)
        return Path(shared) if shared else self.logs / f"{name}.log"
