"""An agent on an NVIDIA GPU, with isolation MPS if nothing else is said, over fake NVML, lanes and control binary."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from agent_process import AgentProcess
from mps_daemon import clear_away, path_with_sleeping_server

DEADLINE_S = 90.0
LANES = ("prefill", "decode")


class GpuAgent:
    """An agent process, not started yet, its pipe directory and what NVML says to it (see `fake_nvml.build`)."""

    def __init__(
        self,
        directory: Path,
        nvml: Mapping[str, object],
        faults: dict[str, object],
        environment: Mapping[str, str],
        **settings: object,
    ) -> None:
        directory.mkdir(mode=0o700)
        given = {
            "PATH": path_with_sleeping_server(),
            "FAKE_NVML": str(directory / "nvml.json"),
            **environment,
        }
        self.process = AgentProcess(directory, faults, given, device="CUDA", **settings)
        self.pipes = directory / "mps" / "pipe"
        self.nvml(**nvml)

    def nvml(self, **facts: object) -> None:
        new = self.process.directory / "nvml.new"
        new.write_text(json.dumps(facts))
        new.rename(self.process.directory / "nvml.json")

    def until(self, condition: Callable[[], object], what: str) -> None:
        self.process.until(condition, what, DEADLINE_S)

    def until_steady(self, prefill: int = 80, decode: int = 100) -> None:
        granted = (prefill, decode)
        self.until(
            lambda: self.process.engine().phase == "Steady" and self.process.granted() == granted,
            f"steady at {granted}",
        )

    def until_problem(self, text: str) -> None:
        self.until(lambda: any(text in problem for problem in self.process.status().problems), text)

    def faults(self) -> dict[str, str]:
        """Message by reason."""
        return {fault.reason: fault.message for fault in self.process.status().faults}

    def lanes(self) -> set[int]:
        pids = self.process.pids()
        return {pids[role] for role in LANES if role in pids}

    @property
    def daemon(self) -> int | None:
        shared = self.process.status().shared
        return next((process.pid for process in shared if process.role == "mps"), None)

    def environment(self, pid: int) -> dict[str, str]:
        """Of a lane, as it told the fake when it became a client."""
        (path,) = self.pipes.parent.glob(f"*/clients/{pid}")
        found: dict[str, str] = json.loads(path.read_text())
        return found

    def metric(self, name: str) -> float:
        lines = self.process.get("/metrics").content.decode().splitlines()
        return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    def logged(self) -> str:
        return (self.process.directory / "agent.log").read_text(errors="replace")

    def clear_away(self) -> None:
        self.process.clear_away()
        clear_away(self.pipes)
