"""What the agent answers under `GET /v1/status`, from what is already known: no I/O."""

from __future__ import annotations

import os
import time

from semipd_agent.agent import Agent
from semipd_agent.observer import EngineObserver
from semipd_agent.supervision.shares import to_wire
from semipd_agent.supervision.view import LaneStage
from semipd_core.agent_config import AgentStatus, EngineStatus, ProcessStatus
from semipd_core.engine_config import SpecError
from semipd_core.partition import Isolation
from semipd_core.slo.pooled import pool_reports
from semipd_core.telemetry import EngineReport

WINDOW_S = 60.0
STALE_AFTER_S = 5.0


def build_status(agent: Agent) -> AgentStatus:
    config = agent.config
    now_s = time.time()
    window = pool_reports(
        build_windows(agent), since_s=now_s - WINDOW_S, now_s=now_s, stale_after_s=STALE_AFTER_S
    )
    return AgentStatus(
        service=config.service,
        url=f"http://{config.host}:{config.port}/v1",
        ready=agent.is_ready,
        draining=agent.is_draining,
        agent=ProcessStatus(role="agent", pid=os.getpid()),
        shared=[
            ProcessStatus(role=shared.name, pid=shared.child.pid, restarts=shared.child.restarts)
            for shared in agent.shared
            if shared.child.pid is not None
        ],
        engines=[_engine_status(agent, observer) for observer in agent.observers.values()],
        wish=agent.wish,
        decisions=agent.decisions.newest(),
        switches=agent.switches,
        attainment_permille=window.attainment_permille,
        started_s=agent.started_s,
        problems=agent.problems,
        faults=agent.faults,
        isolation=agent.isolation,
    )


def build_windows(agent: Agent) -> list[EngineReport]:
    return [observer.report for observer in agent.observers.values() if observer.report is not None]


def _engine_status(agent: Agent, observer: EngineObserver) -> EngineStatus:
    supervisor = observer.supervisor
    granted = supervisor.lanes.granted(supervisor.config.isolation)
    coordinator = observer.report.coordinator if observer.report is not None else None
    proxy_error = agent.proxy.error if agent.proxy is not None else None
    return EngineStatus(
        engine_id=supervisor.engine_id,
        phase=supervisor.shares.phase,
        isolation=supervisor.config.isolation,
        requested=to_wire(supervisor.shares.requested),
        granted=to_wire(granted) if granted is not None else None,
        processes=_processes(observer),
        kv_blocks_total=coordinator.kv_blocks_total if coordinator is not None else 0,
        kv_blocks_used=coordinator.kv_blocks_used if coordinator is not None else 0,
        ready=observer.is_ready and not agent.is_draining,
        switch=supervisor.shares.last_switch,
        error=_describe(supervisor.error or proxy_error),
    )


def _processes(observer: EngineObserver) -> list[ProcessStatus]:
    supervisor = observer.supervisor
    # A green context's share is the wish in force, whatever the lane was forked with.
    is_green = supervisor.config.isolation is Isolation.GREEN_CONTEXT
    children = [
        ProcessStatus(role=role, pid=child.pid, restarts=child.restarts)
        for role, child in supervisor.children.items()
        if child.pid is not None
    ]
    lanes = [
        ProcessStatus(
            role=lane.role,
            pid=lane.pid,
            requested_percent=supervisor.shares.partition.percent(lane.role) if is_green else lane.percent,
            granted_percent=lane.granted_percent,
            standby=lane.stage is LaneStage.STANDBY,
        )
        for lane in supervisor.lanes
        if lane.pid is not None
    ]
    return children + lanes


def _describe(error: SpecError | None) -> str | None:
    return None if error is None else f"{error.path}: got {error.given}, allowed: {error.allowed}"
