"""Watches one engine: its windows every second, and the node loop's decision from them (observe, decide, apply)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

from semipd_agent.supervision.engine import EngineSupervisor
from semipd_agent.supervision.shares import new_goal, to_wire
from semipd_agent.windows import FrontEndClient
from semipd_core import wishes
from semipd_core.agent_config import DecisionStatus, WishWire
from semipd_core.node import loop as node
from semipd_core.partition import Partition, Wish
from semipd_core.policies.decision import Decision, Reason
from semipd_core.repartition import Phase
from semipd_core.telemetry import EngineReport

PERIOD_S = 1.0
EAGER_PERIOD_S = 0.2  # until the engine is ready
REFUSED_FOR_S = 30.0  # a refused wish is not tried again before


class EngineObserver:
    """`report` is the latest; `wish` is the one in force, set by whoever takes wishes."""

    def __init__(
        self,
        supervisor: EngineSupervisor,
        node_config: node.NodeConfig,
        on_decision: Callable[[DecisionStatus], None],
    ) -> None:
        self.supervisor = supervisor
        self.front_end = FrontEndClient(supervisor.config.front_socket)
        self.report: EngineReport | None = None
        self._window_pid: int | None = None  # of the front end that `report` tells of
        self.has_been_ready = False
        self.wish: Wish | None = None
        self._config = node_config
        self._state = node.initial_state(node_config)
        self._on_decision = on_decision

    def follow(self, wish: WishWire) -> None:
        """The wish in force, with the service's SLO and policy where it names them."""
        self.wish = wishes.from_wire(wish)
        self._config = replace(
            self._config, slo=wish.slo or self._config.slo, policy=wish.policy or self._config.policy
        )
        self.supervisor.band = node.step_band(self._config, self.wish)

    @property
    def is_ready(self) -> bool:
        """New requests are answered, by the word of the front end that lives (not of one before it)."""
        front_end = self.report.front_end if self.report is not None else None
        is_same = self._window_pid is not None and self._window_pid == self.front_end_pid
        return front_end is not None and front_end.ready and is_same and self.supervisor.error is None

    @property
    def front_end_pid(self) -> int | None:
        return self.supervisor.children["frontend"].pid

    async def run(self) -> None:
        while True:
            pid = self.front_end_pid
            self.report, self._window_pid = await self.observe(), pid
            await self._tell_slo(self.report)
            self.has_been_ready = self.has_been_ready or self.is_ready
            self._decide(self.report)
            await asyncio.sleep(PERIOD_S if self.is_ready else EAGER_PERIOD_S)

    async def observe(self) -> EngineReport:
        supervisor = self.supervisor
        front_end, coordinator = await asyncio.gather(self.front_end.window(), supervisor.link.ask_state())
        shares = supervisor.shares
        granted = supervisor.lanes.granted(supervisor.config.isolation)
        return EngineReport(
            engine_id=supervisor.engine_id,
            at_s=time.time(),
            phase=shares.phase,
            requested=_pair(shares.requested),
            granted=_pair(granted) if granted is not None else (0, 0),
            front_end=front_end,
            coordinator=coordinator,
        )

    async def _tell_slo(self, report: EngineReport) -> None:
        """At every look: a front end that starts anew has the SLO of the pod's start."""
        if report.front_end is not None and report.front_end.slo != self._config.slo:
            await self.front_end.set_slo(self._config.slo)

    def _decide(self, report: EngineReport) -> None:
        shares = self.supervisor.shares
        last = shares.last_switch
        self._state, decision = node.step(
            self._state,
            self._config,
            report,
            self.wish,
            time.time(),
            switch_s=last.seconds if last is not None else None,
        )
        if self.supervisor.is_draining or shares.phase is not Phase.STEADY or shares.goal is not None:
            return
        self._apply(decision, shares.partition)

    def _apply(self, decision: Decision, current: Partition) -> None:
        """Move, unless the decision only repeats a wish: those are obeyed when taken, and were refused if still open."""
        is_repeat = decision.reason in (Reason.CLUSTER_WISH, Reason.PINNED, Reason.OUTSIDE_BAND)
        is_move = decision.partition != current and not (is_repeat and self._was_just_refused())
        at_s = time.time()
        if is_move:
            decision_id = self.wish.decision_id if is_repeat and self.wish else f"node-{int(at_s * 1000)}"
            goal = new_goal(decision.partition, decision_id, decision.reason, decision.message)
            self.supervisor.shares.ask(goal)
            self.supervisor.wake()
        self._on_decision(
            DecisionStatus(
                at_s=at_s,
                loop="node",
                engine_id=self.supervisor.engine_id,
                partition=to_wire(decision.partition),
                changed=is_move,
                reason=decision.reason,
                message=decision.message,
            )
        )

    def _was_just_refused(self) -> bool:
        last = self.supervisor.shares.last_switch
        is_same = last is not None and self.wish is not None and last.decision_id == self.wish.decision_id
        if not is_same or last is None or last.outcome != "RolledBack":
            return False
        return self.supervisor.shares.phase_age_s < REFUSED_FOR_S


def _pair(partition: Partition) -> tuple[int, int]:
    return partition.prefill_percent, partition.decode_percent
