"""The pods of a service as the cluster loop counts them: who serves, and who was granted what it was asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from semipd_core.api.conditions import ConditionStatus, ConditionType
from semipd_core.api.fields import PartitionSplit
from semipd_core.api.partition import BandSpec, EnginePartitionStatus, SemiPDPartition
from semipd_core.cluster.canary import Member
from semipd_core.telemetry import EngineReport
from semipd_operator.plan.observed import PodView


def build_fleet(
    pods: Iterable[PodView],
    reports: Mapping[str, Sequence[EngineReport]],
    partitions: Mapping[str, SemiPDPartition],
) -> list[Member]:
    """`reports` and `partitions`: by pod. A pod that leaves is no longer of the fleet."""
    return [
        Member(
            name=pod.name,
            engines=tuple(report.engine_id for report in reports.get(pod.name, ())),
            is_ready=pod.is_ready,
            applied_id=applied_id(partitions.get(pod.name)),
            template=pod.template,
        )
        for pod in sorted(pods, key=lambda pod: pod.name)
        if not pod.is_leaving
    ]


def applied_id(partition: SemiPDPartition | None) -> str | None:
    """The decision that all engines of the pod follow, by the word of its agent; None while one switches or was refused."""
    if partition is None or partition.status is None or not partition.status.engines:
        return None
    band = partition.spec.band
    is_granted = all(
        _is_granted(engine) and (band is None or _holds(band, engine.granted))
        for engine in partition.status.engines
    )
    return partition.status.observed_decision_id if is_granted else None


def _holds(band: BandSpec, split: PartitionSplit | None) -> bool:
    """A switch that the agent took back leaves the old split, and its agent may have moved inside the band since."""
    return (
        split is not None
        and band.prefill_min_percent <= split.prefill_percent <= band.prefill_max_percent
        and band.decode_min_percent <= split.decode_percent <= band.decode_max_percent
    )


def _is_granted(engine: EnginePartitionStatus) -> bool:
    switches = any(
        condition.type == ConditionType.SWITCHING and condition.status is ConditionStatus.TRUE
        for condition in engine.conditions
    )
    return engine.granted == engine.requested and not switches
