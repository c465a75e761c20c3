"""What a test wants to go wrong in the stand-ins of the engine's programs."""

from __future__ import annotations

from pathlib import Path

import msgspec

from semipd_core.engine_config import EngineConfig, SpecError

ORPHAN_GRACE_S = 25.0  # an agent that is started on a busy machine takes ten
LOST_ORDER_S = 1.5  # longer than the agent waits for an answer


class Faults(msgspec.Struct, kw_only=True):
    """What goes wrong, by program."""

    memory_error: SpecError | None = None  # exit 2 with it
    memory_problem: str | None = None  # exit 1 with it, until the faults are gone
    lane_problem: str | None = None  # exit 76 with it, until the faults are gone
    lane_exits_at_percent: int | None = None
    lane_hangs_at_percent: int | None = None
    lane_grants_less_at_percent: int | None = None
    caps_ignored: bool = False
    lanes_bypass_mps: bool = False
    lanes_ignore_sigterm: bool = False
    open_requests: int = 0  # of each front end, until it drains for `drain_s`
    drain_s: float = 0.0
    drain_orders_lost: int = 0  # the first ones to each front end: neither taken nor answered


def read_faults(run_directory: Path) -> Faults:
    path = run_directory / "faults.json"
    return msgspec.json.decode(path.read_bytes(), type=Faults) if path.exists() else Faults()


def read_config(path: str) -> EngineConfig:
    return msgspec.json.decode(Path(path).read_bytes(), type=EngineConfig)
