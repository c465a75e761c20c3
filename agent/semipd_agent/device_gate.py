"""What may run on the device, by the word of both who watch it: MPS and the GPUs. None stands for whom there is not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from semipd_agent.device.watch import GpuWatch
from semipd_agent.mps.controller import MpsController
from semipd_agent.mps.environment import lane_environment, outside_environment
from semipd_agent.run_directory import RunDirectory


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceGate:
    mps: MpsController | None
    gpus: GpuWatch | None

    @property
    def is_cordoned(self) -> bool:
        """No new requests."""
        return self.gpus is not None and self.gpus.verdict.is_cordoned

    def lanes_may_start(self) -> bool:
        is_served = self.mps is None or self.mps.is_ready
        return is_served and (self.gpus is None or self.gpus.lanes_may_start)

    def why_lanes_must_end(self) -> str | None:
        by_mps = self.mps.why_lanes_must_end if self.mps is not None else None
        if by_mps is not None and self.gpus is not None:
            self.gpus.note_forced_end()
        by_xid = self.gpus.why_lanes_must_end if self.gpus is not None else None
        return by_mps or by_xid

    async def before_kill(self, pid: int) -> None:
        """`pid` is a lane's."""
        if self.gpus is not None:
            self.gpus.note_forced_end()
        if self.mps is not None:
            await self.mps.terminate_client(pid)

    def surroundings(self, run_directory: RunDirectory) -> dict[str, Any]:
        """The settings of `Surroundings` that a device changes; none on the CPU."""
        settings: dict[str, Any] = {}
        if self.mps is not None or self.gpus is not None:
            settings |= {
                "lanes_may_start": self.lanes_may_start,
                "why_lanes_must_end": self.why_lanes_must_end,
                "before_kill": self.before_kill,
            }
        if (gpus := self.gpus) is not None:
            settings |= {
                "why_no_start": lambda: gpus.verdict.start_hold,
                "why_no_switch": lambda: gpus.verdict.switch_hold,
                "why_engine_must_end": lambda: gpus.why_engines_must_end,
                "free_bytes": gpus.free_bytes,
                "free_bytes_read_s": lambda: gpus.read_s,
            }
        if self.mps is not None or self.gpus is not None:
            outside = outside_environment(str(run_directory.no_mps_pipes))
            inside = lane_environment(str(run_directory.mps_pipes))
            settings |= {
                "lane_environment": outside if self.mps is None else inside,
                "child_environment": outside,
            }
        return settings
