"""What the cluster loop did, per service. Labels are bounded: namespace, name, and words from fixed lists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from semipd_core.cluster.state import ClusterRound, ClusterState
from semipd_core.policies.decision import Reason
from semipd_operator.plan.template_trial import Rollout
from semipd_shell.informer import Key

LABELS = ["namespace", "name"]
STAGES = {None: 0, "OnePod": 1, "Percent": 2}
ROLLED_BACK = 3


@dataclass(slots=True)
class Tally:
    """Since this operator follows the service."""

    moves: int = 0  # of the band, of all pods or of the first canary
    roll_backs: int = 0
    decisions: dict[str, int] = field(default_factory=dict)  # rounds by reason

    def note(self, before: ClusterState, after: ClusterState, round_: ClusterRound) -> None:
        reason = round_.decision.reason
        self.decisions[reason] = self.decisions.get(reason, 0) + 1
        self.moves += bool(after.moves_s) and after.moves_s[-1:] != before.moves_s[-1:]
        self.roll_backs += reason in (Reason.CANARY_FAILED, Reason.CANARY_EXPIRED)


class LoopReading(Protocol):
    """One service's loop."""

    state: ClusterState
    tally: Tally
    rollout: Rollout


class LoopCollector(Collector):
    """Read off the loops at each scrape, so that what is gone is gone."""

    def __init__(self, readings: Mapping[Key, LoopReading]) -> None:
        self._readings = readings

    def describe(self) -> list[Metric]:
        """By which a registry knows the names that a scrape may ask for."""
        return LoopCollector({}).collect()

    def collect(self) -> list[Metric]:
        moves = CounterMetricFamily(
            "semipd_service_moves", "moves of the band, canaries included", labels=LABELS
        )
        back = CounterMetricFamily("semipd_service_canary_roll_backs", "splits taken back", labels=LABELS)
        decisions = CounterMetricFamily(
            "semipd_service_decisions", "rounds of the cluster loop by reason", labels=[*LABELS, "reason"]
        )
        stage = GaugeMetricFamily(
            "semipd_service_canary_stage", "0: none, 1: one pod, 2: canaryPercent of the pods", labels=LABELS
        )
        rollout = GaugeMetricFamily(
            "semipd_service_rollout_stage",
            "of a new pod template; 0: none, 1: one pod, 2: canaryPercent of the pods, 3: rolled back",
            labels=LABELS,
        )
        for key, reading in self._readings.items():
            canary, trial = reading.state.canary, reading.rollout.trial
            refused = ROLLED_BACK if reading.rollout.refusal else None
            rollout.add_metric(key, refused or STAGES[trial.stage if trial else None])
            moves.add_metric(key, reading.tally.moves)
            back.add_metric(key, reading.tally.roll_backs)
            stage.add_metric(key, STAGES[canary.stage if canary else None])
            for reason, count in sorted(reading.tally.decisions.items()):
                decisions.add_metric([*key, reason], count)
        return [moves, back, decisions, stage, rollout]


def add_loop_metrics(registry: CollectorRegistry, readings: Mapping[Key, LoopReading]) -> None:
    registry.register(LoopCollector(readings))
