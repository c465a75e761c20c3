"""What becomes of standby lanes, as Prometheus metrics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily

from semipd_agent.supervision.engine import EngineSupervisor
from semipd_agent.supervision.view import LaneStage
from semipd_core.repartition import SwitchForm


def standby_metrics(supervisors: Iterable[EngineSupervisor]) -> Iterator[Metric]:
    lanes = GaugeMetricFamily(
        "semipd_agent_standby_lanes", "Lanes that wait, warm, without work", labels=["engine", "role"]
    )
    switched = CounterMetricFamily(
        "semipd_agent_switch_lanes",
        "Lanes of prepared switches, by whether they stood by already, since this agent began",
        labels=["engine", "role", "start"],
    )
    seconds = SummaryMetricFamily(
        "semipd_agent_switch_seconds",
        "Wish to effect, by the form of the switch, since this agent began",
        labels=["engine", "form"],
    )
    for supervisor in supervisors:
        engine_id, standbys = supervisor.engine_id, supervisor.standbys
        for role in supervisor.config.isolation.roles:
            waiting = [lane for lane in supervisor.lanes if lane.role is role and lane.is_alive]
            lanes.add_metric([engine_id, role], sum(lane.stage is LaneStage.STANDBY for lane in waiting))
            switched.add_metric([engine_id, role, SwitchForm.WARM], standbys.hits[role])
            switched.add_metric([engine_id, role, SwitchForm.COLD], standbys.misses[role])
        for form in SwitchForm:
            seconds.add_metric([engine_id, form], standbys.switches[form], standbys.switch_s[form])
    yield from (lanes, switched, seconds)
