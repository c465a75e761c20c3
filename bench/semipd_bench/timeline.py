"""What the engines said about themselves while a load ran: one small sample per poll of the agent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx
import msgspec

from semipd_bench.agent_client import AgentClient, AgentRefused
from semipd_core.agent_config import AgentStatus, DecisionStatus, SwitchStatus
from semipd_core.partition import Role
from semipd_core.telemetry import CoordinatorReport, EngineReport

CHANGED_BY_HAND = frozenset({"Calibrating", "Calibrated"})  # wishes of the replay itself


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneSample:
    """The active lane of one role."""

    role: Role
    requested_percent: int
    granted_percent: int
    batch: int
    tokens_per_s: float | None  # None: no earlier sample to compare with


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSample:
    """One engine. Counts of requests, prompt tokens not yet computed, KV in permille of its blocks."""

    engine_id: str
    phase: str
    requested: tuple[int, int]
    granted: tuple[int, int]
    waiting: int
    waiting_tokens: int
    decoding: int
    kv_used_permille: int
    lanes: tuple[LaneSample, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """All engines at `at_s` seconds since the load's start."""

    at_s: float
    engines: tuple[EngineSample, ...]
    attainment_permille: int | None = None


@dataclass(slots=True, eq=False)
class Timeline:
    """Samples in order; switches and decisions as the agent listed them, each once."""

    started_unix_s: float
    samples: list[Sample] = field(default_factory=list)
    switches: list[SwitchStatus] = field(default_factory=list)
    decisions: list[DecisionStatus] = field(default_factory=list)
    missed_polls: int = 0
    _last: dict[str, EngineReport] = field(default_factory=dict)

    def take(self, at_s: float, status: AgentStatus, reports: Sequence[EngineReport]) -> Sample:
        """Add one poll's answers."""
        engines = tuple(sample_engine(self._last.get(r.engine_id), r) for r in reports)
        sample = Sample(at_s=at_s, engines=engines, attainment_permille=status.attainment_permille)
        self._last = {r.engine_id: r for r in reports}
        self.samples.append(sample)
        self.switches = [s for s in status.switches if s.at_s >= self.started_unix_s]
        known = set(self.decisions)
        fresh = [d for d in status.decisions if d.at_s >= self.started_unix_s and d not in known]
        self.decisions.extend(reversed(fresh))
        return sample

    async def poll(self, agent: AgentClient, at_s: float) -> Sample | None:
        """None where the agent does not answer (it may be restarting): the load goes on."""
        try:
            return self.take(at_s, await agent.status(), await agent.windows())
        except (httpx.HTTPError, AgentRefused, msgspec.MsgspecError):
            self.missed_polls += 1
            return None


def sample_engine(before: EngineReport | None, now: EngineReport) -> EngineSample:
    """`before` is the same engine's earlier report, for rates."""
    coordinator = now.coordinator
    return EngineSample(
        engine_id=now.engine_id,
        phase=now.phase,
        requested=now.requested,
        granted=now.granted,
        waiting=coordinator.waiting + coordinator.prefilling if coordinator else 0,
        waiting_tokens=coordinator.waiting_tokens if coordinator else 0,
        decoding=coordinator.decoding if coordinator else 0,
        kv_used_permille=_kv_used_permille(coordinator),
        lanes=tuple(_sample_lanes(before, now)),
    )


def _kv_used_permille(coordinator: CoordinatorReport | None) -> int:
    if coordinator is None or not coordinator.kv_blocks_total:
        return 0
    return 1000 * coordinator.kv_blocks_used // coordinator.kv_blocks_total


def _sample_lanes(before: EngineReport | None, now: EngineReport) -> list[LaneSample]:
    lanes = []
    for lane in now.coordinator.lanes if now.coordinator else []:
        if not lane.active:
            continue
        earlier = _role_tokens(before, lane.role)
        rate = None
        if before is not None and earlier is not None and now.at_s > before.at_s:
            # A coordinator that was replaced counts from 0 again.
            rate = max(lane.tokens - earlier, 0) / (now.at_s - before.at_s)
        lanes.append(
            LaneSample(
                role=lane.role,
                requested_percent=lane.requested_percent,
                granted_percent=lane.granted_percent,
                batch=lane.batch,
                tokens_per_s=rate,
            )
        )
    return lanes


def _role_tokens(report: EngineReport | None, role: Role) -> int | None:
    if report is None or report.coordinator is None:
        return None
    return next((lane.tokens for lane in report.coordinator.lanes if lane.role == role and lane.active), None)
