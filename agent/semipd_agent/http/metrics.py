"""Prometheus metrics, collected from the agent's state when they are scraped."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from semipd_agent.agent import Agent
from semipd_agent.http.gpu_metrics import fault_metric, gpu_metrics
from semipd_agent.http.standby_metrics import standby_metrics
from semipd_agent.mps.view import MpsState
from semipd_core.repartition import Phase


class AgentCollector(Collector):
    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "semipd_agent_ready", "1 while new requests are answered", value=float(self._agent.is_ready)
        )
        yield self._shares("requested", "SM cap asked for")
        yield self._shares("granted", "SM cap that the active lane read back")
        yield from self._splits()
        yield from self._lane_times()
        yield self._phases()
        yield self._restarts()
        yield self._switches()
        yield self._lane_losses()
        yield from standby_metrics(each.supervisor for each in self._agent.observers.values())
        yield fault_metric(self._agent.faults)
        yield from self._isolation()
        yield from self._mps()
        if self._agent.gpus is not None:
            yield from gpu_metrics(self._agent.gpus)

    def _mps(self) -> Iterator[Metric]:
        mps = self._agent.mps
        if mps is None:
            return
        states = GaugeMetricFamily(
            "semipd_agent_mps_state", "1 for the state that MPS is in", labels=["state"]
        )
        for state in MpsState:
            states.add_metric([state], float(mps.verdict.state is state))
        yield states
        yield CounterMetricFamily(
            "semipd_agent_mps_faults", "Faults of one client that hit all, since this agent began", mps.faults
        )
        yield GaugeMetricFamily(
            "semipd_agent_mps_clients", "Processes that the MPS servers list", mps.client_count
        )

    def _isolation(self) -> Iterator[Metric]:
        if (found := self._agent.isolation) is None:
            return
        family = GaugeMetricFamily(
            "semipd_agent_isolation",
            "1 for the isolation in force, with why it was chosen",
            labels=["isolation", "reason"],
        )
        family.add_metric([found.isolation, found.reason], 1.0)
        yield family

    def _shares(self, kind: str, text: str) -> GaugeMetricFamily:
        family = GaugeMetricFamily(
            f"semipd_agent_share_{kind}_percent", f"{text}, in percent", labels=["engine", "role"]
        )
        for observer in self._agent.observers.values():
            supervisor = observer.supervisor
            granted = supervisor.lanes.granted(supervisor.config.isolation)
            partition = supervisor.shares.requested if kind == "requested" else granted
            if partition is not None:
                family.add_metric([supervisor.engine_id, "prefill"], partition.prefill_percent)
                family.add_metric([supervisor.engine_id, "decode"], partition.decode_percent)
        return family

    def _splits(self) -> Iterator[Metric]:
        """How often each split was chosen for a step, and how long such steps took; nothing where steps have none."""
        labels = ["engine", "role", "prefill_percent", "decode_percent"]
        steps = CounterMetricFamily(
            "semipd_agent_split_steps",
            "Steps at the split chosen for them, since the coordinator began",
            labels=labels,
        )
        seconds = CounterMetricFamily(
            "semipd_agent_split_busy_seconds",
            "Wall time of steps at the split chosen for them, since the coordinator began",
            labels=labels,
        )
        for observer in self._agent.observers.values():
            coordinator = observer.report.coordinator if observer.report is not None else None
            for use in coordinator.splits if coordinator is not None else ():
                name = [
                    observer.supervisor.engine_id,
                    use.role,
                    str(use.prefill_percent),
                    str(use.decode_percent),
                ]
                steps.add_metric(name, use.steps)
                seconds.add_metric(name, use.busy_us / 1e6)
        yield steps
        yield seconds

    def _lane_times(self) -> Iterator[Metric]:
        """Of each role's active lane: its counters go on from those before it."""
        names = ["engine", "role"]
        busy = CounterMetricFamily(
            "semipd_agent_lane_busy_seconds",
            "Wall time with a step in flight, since the coordinator began",
            labels=names,
        )
        compute = CounterMetricFamily(
            "semipd_agent_lane_compute_seconds",
            "Time that the role's steps computed, by their lanes' word, since the coordinator began",
            labels=names,
        )
        for observer in self._agent.observers.values():
            coordinator = observer.report.coordinator if observer.report is not None else None
            for lane in coordinator.lanes if coordinator is not None else ():
                if lane.active:
                    name = [observer.supervisor.engine_id, lane.role]
                    busy.add_metric(name, lane.busy_us / 1e6)
                    compute.add_metric(name, lane.compute_us / 1e6)
        yield busy
        yield compute

    def _phases(self) -> GaugeMetricFamily:
        family = GaugeMetricFamily(
            "semipd_agent_engine_phase", "1 for the phase that the engine is in", labels=["engine", "phase"]
        )
        for observer in self._agent.observers.values():
            for phase in Phase:
                is_in = float(observer.supervisor.shares.phase is phase)
                family.add_metric([observer.supervisor.engine_id, phase], is_in)
        return family

    def _restarts(self) -> CounterMetricFamily:
        family = CounterMetricFamily(
            "semipd_agent_process_restarts",
            "Starts after the first, since this agent began",
            labels=["process"],
        )
        children = [shared.child for shared in self._agent.shared]
        for observer in self._agent.observers.values():
            children += observer.supervisor.children.values()
        for child in children:
            family.add_metric([child.name], child.restarts)
        return family

    def _lane_losses(self) -> CounterMetricFamily:
        family = CounterMetricFamily(
            "semipd_agent_lane_losses",
            "Lanes that ended unasked, since this agent began",
            labels=["engine", "role"],
        )
        for observer in self._agent.observers.values():
            supervisor = observer.supervisor
            for role in supervisor.config.isolation.roles:
                family.add_metric([supervisor.engine_id, role], supervisor.lane_losses.get(role, 0))
        return family

    def _switches(self) -> GaugeMetricFamily:
        family = GaugeMetricFamily(
            "semipd_agent_last_switch_seconds",
            "Wish to effect of the engine's last switch",
            labels=["engine", "outcome"],
        )
        for observer in self._agent.observers.values():
            last = observer.supervisor.shares.last_switch
            if last is not None and last.seconds is not None:
                family.add_metric([observer.supervisor.engine_id, last.outcome], last.seconds)
        return family


def render_metrics(agent: Agent) -> tuple[bytes, str]:
    registry = CollectorRegistry()
    registry.register(AgentCollector(agent))
    return generate_latest(registry), CONTENT_TYPE_LATEST
