"""`explain`: why the split of a service is what it is, as numbers and as sentences."""

from __future__ import annotations

from semipd_core.api.service import ServiceStatus
from semipd_core.telemetry import Wire
from semipd_kubectl.observe.objects import ServiceView
from semipd_kubectl.reports.holds import Hold, cooldown_left_s, find_holds, moves_of_last_hour_s
from semipd_kubectl.reports.live import ServiceLive
from semipd_kubectl.reports.status import PodReport, SloReport, build_pods, build_slo
from semipd_kubectl.reports.trial import CanaryReport, RolloutReport, build_canary, build_rollout
from semipd_kubectl.reports.values import (
    DecisionReport,
    Range,
    Split,
    decisions_of,
    range_of,
    split_of,
)


class ExplainReport(Wire, frozen=True, kw_only=True):
    """`live` None: not asked for. `proven` None: no split has met the SLO yet.

    `moves_last_hour` counts those that status and partitions still show: at least so many.
    """

    namespace: str
    name: str
    mode: str
    policy: str
    class_name: str | None
    requested: Split | None
    granted: Split | None
    band: Range | None
    bounds: Range
    bounds_in_force: Range
    cooldown_seconds: int
    cooldown_left_seconds: int
    moves_last_hour: int
    max_moves_per_hour: int | None
    slo: SloReport
    canary: CanaryReport | None
    rollout: RolloutReport | None
    proven: Range | None
    live: ServiceLive | None
    holds: list[Hold]
    decisions: list[DecisionReport]
    pods: list[PodReport]


def build_explanation(view: ServiceView, live: ServiceLive | None, now_s: float) -> ExplainReport:
    """`now_s`: unix time."""
    partition = view.service.spec.partition
    status = view.service.status or ServiceStatus()
    decisions = decisions_of(status.decisions)
    pods = build_pods(view)
    cls = view.class_spec
    canary = build_canary(view)
    moves_s = moves_of_last_hour_s(view, now_s)
    return ExplainReport(
        namespace=view.namespace,
        name=view.name,
        mode=partition.mode.value,
        policy=partition.policy.value,
        class_name=view.cls.metadata.name if view.cls else None,
        requested=split_of(status.requested),
        granted=split_of(status.granted),
        band=_band(pods),
        bounds=range_of(partition.bounds),
        bounds_in_force=range_of(view.bounds),
        cooldown_seconds=partition.cooldown_seconds,
        cooldown_left_seconds=cooldown_left_s(moves_s, partition.cooldown_seconds, now_s),
        moves_last_hour=len(moves_s),
        max_moves_per_hour=cls.max_switches_per_hour if cls is not None else None,
        slo=build_slo(view.service),
        canary=canary,
        rollout=build_rollout(view),
        proven=range_of(status.proven) if status.proven is not None else None,
        live=live,
        holds=list(find_holds(view, decisions, canary, moves_s, now_s)),
        decisions=decisions,
        pods=pods,
    )


def _band(pods: list[PodReport]) -> Range | None:
    """That of most pods."""
    bands = [pod.band for pod in pods if pod.band is not None]
    return max(bands, key=bands.count, default=None)
