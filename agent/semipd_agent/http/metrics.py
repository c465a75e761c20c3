"""Prometheus metrics, collected from the agent's state when they are scraped."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from semipd_agent.agent import Agent
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
        yield self._phases()
        yield self._restarts()
        yield self._switches()

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
