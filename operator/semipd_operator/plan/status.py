"""The status of a service: counts, shares, SLO, last decisions, conditions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from semipd_core.api.conditions import Condition, ConditionType, find_condition, set_condition
from semipd_core.api.fields import PartitionSplit
from semipd_core.api.service import DecisionRecord, Routing, ServiceStatus
from semipd_core.cluster.state import ClusterRound, ClusterState, TimedDecision, keep_moves
from semipd_core.errors import InvalidSpec
from semipd_core.partition import Partition
from semipd_core.telemetry import SloTargets
from semipd_operator.plan import conditions
from semipd_operator.plan.figures import slo_status
from semipd_operator.plan.naming import selector, selector_text
from semipd_operator.plan.observed import Observed
from semipd_operator.plan.routing import Route
from semipd_operator.plan.template_trial import NO_ROLLOUT, Rollout
from semipd_operator.plan.times import to_rfc3339, to_unix_s
from semipd_operator.plan.trial_status import canary_status, proven_status, rollout_status

OPTIONAL = (ConditionType.ROUTED, ConditionType.ISOLATION_PREFERRED)  # gone where there is nothing to say
MEASURED = (ConditionType.METRICS_AVAILABLE, ConditionType.SLO_MET)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """What the cluster loop last said of the service."""

    state: ClusterState
    round: ClusterRound
    slo: SloTargets
    average_s: float = 45.0  # of the pressure that replicas follow


def build_status(
    observed: Observed,
    loop: Loop | None,
    defect: InvalidSpec | None,
    now: str,
    *,
    pin_defect: InvalidSpec | None = None,
    route: Route | None = None,
    rollout: Rollout = NO_ROLLOUT,
) -> ServiceStatus:
    """`now` is RFC 3339, for conditions that flip. Equal observations give an equal status.

    Without a loop and with a defect nobody looks at the service any more: an operator that starts anew makes it no loop.
    """
    service, workload = observed.service, observed.workload
    old = service.status or ServiceStatus()
    found = _conditions(observed, loop, defect, pin_defect, route, rollout)
    said = {each.type for each in found}
    gone = [kind for kind in OPTIONAL if kind not in said]
    old = replace(old, conditions=tuple(each for each in old.conditions if each.type not in gone))
    if (
        loop is None and defect is None
    ):  # the operator starts anew: what the last one saw holds until the first look
        found = [
            each
            for each in found
            if each.type not in MEASURED or not find_condition(old.conditions, each.type)
        ]
    for condition in found:
        observed_at = replace(condition, observed_generation=service.metadata.generation)
        old = replace(old, conditions=set_condition(old.conditions, observed_at, now))
    return ServiceStatus(
        observed_generation=service.metadata.generation,
        mode=(old.mode if defect else None) or service.spec.partition.mode,
        placement=(old.placement if defect else None) or service.spec.placement,
        replicas=workload.desired if workload else 0,
        ready_replicas=workload.ready if workload else 0,
        updated_replicas=workload.updated if workload else 0,
        selector=selector_text(selector(service.metadata.name)),
        requested=_split(loop.state.target) if loop else old.requested,
        granted=granted_by_most(observed) or old.granted,
        slo=slo_status(loop.round.window, loop.slo, old.slo) if loop else None if defect else old.slo,
        decisions=_decisions(loop.state, old.decisions) if loop else old.decisions,
        canary=canary_status(loop.state) if loop else None if defect else old.canary,
        rollout=rollout_status(rollout),
        proven=proven_status(loop.state) if loop else old.proven,
        conditions=old.conditions,
    )


def granted_by_most(observed: Observed) -> PartitionSplit | None:
    """The split that most engines run; of equally common ones, the smallest."""
    counts = Counter(
        (engine.granted.prefill_percent, engine.granted.decode_percent)
        for partition in observed.partitions.values()
        if partition.status is not None
        for engine in partition.status.engines
        if engine.granted is not None
    )
    if not counts:
        return None
    prefill, decode = min(counts, key=lambda split: (-counts[split], split))
    return PartitionSplit(prefill_percent=prefill, decode_percent=decode)


def _conditions(
    observed: Observed,
    loop: Loop | None,
    defect: InvalidSpec | None,
    pin_defect: InvalidSpec | None,
    route: Route | None,
    rollout: Rollout,
) -> Sequence[Condition]:
    round_ = loop.round if loop else None
    resources = observed.service.spec.resources
    engines = resources.engines_per_pod * sum(not pod.is_leaving for pod in observed.pods)
    parts = [
        conditions.engines_ready(observed),
        conditions.progressing(observed, loop.state.canary if loop else None, rollout),
        conditions.partition_applied(observed),
        conditions.metrics_available(round_, engines),
        conditions.slo_met(round_, observed.service.spec.slo, _slo_met_before(observed)),
        conditions.degraded(observed, defect, pin_defect, rollout.refusal),
    ]
    if (fallen := conditions.isolation_preferred(observed)) is not None:
        parts.append(fallen)
    if route is not None and observed.service.spec.routing is not Routing.SERVICE:
        parts.append(conditions.routed(route))
    return [conditions.ready(parts), *parts]


def _slo_met_before(observed: Observed) -> Condition | None:
    status = observed.service.status
    return find_condition(status.conditions, ConditionType.SLO_MET) if status is not None else None


def _decisions(state: ClusterState, old: Sequence[DecisionRecord]) -> tuple[DecisionRecord, ...]:
    """Those of the loop before older ones. A hold that goes on keeps the words of its first look, also over a restart."""
    known = {_key(record): record for record in old}
    found = [_record(timed) for timed in state.decisions]
    found = [known.get(_key(record), record) for record in found]
    if not found:
        return tuple(old)
    older = [record for record in old if record.time < found[-1].time]
    if older and _key(older[0])[1:] == _key(found[-1])[1:]:
        found.pop()
    records = [*found, *older]
    return keep_moves(records, to_unix_s(records[0].time))


def _key(record: DecisionRecord) -> tuple[str, str, PartitionSplit]:
    return record.time, record.reason, record.partition


def _record(timed: TimedDecision) -> DecisionRecord:
    return DecisionRecord(
        time=to_rfc3339(timed.at_s),
        decision_id=timed.decision_id,
        partition=_split(timed.decision.partition),
        reason=timed.decision.reason,
        message=timed.decision.message,
    )


def _split(partition: Partition) -> PartitionSplit:
    return PartitionSplit(prefill_percent=partition.prefill_percent, decode_percent=partition.decode_percent)
