"""Where the loop of a service takes up after a restart of the operator: from the partitions, and from the status.

The status is written before the partitions, so what it says of a trial is never behind what pods are asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from semipd_core.api.fields import PartitionSplit
from semipd_core.api.partition import BandSpec, PodPartitionSpec, SemiPDPartition
from semipd_core.api.service import CanaryStage, CanaryStatus, PartitionMode, ServiceStatus
from semipd_core.cluster.canary import Canary, Refusal
from semipd_core.cluster.loop import initial_state
from semipd_core.cluster.state import (
    HOUR_S,
    ClusterConfig,
    ClusterState,
    band_around,
    decision_id_at,
    moved_at_s,
)
from semipd_core.cluster.verdicts import Verdicts
from semipd_core.partition import Band, Partition, Wish
from semipd_core.policies.decision import Reason
from semipd_operator.plan.loop_settings import PINNED_PREFIX, fit_state
from semipd_operator.plan.observed import Observed
from semipd_operator.plan.times import to_unix_s

Specs = Mapping[str, PodPartitionSpec]  # by pod


def resume_state(
    config: ClusterConfig,
    partitions: Iterable[SemiPDPartition],
    status: ServiceStatus | None = None,
    now_s: float = 0.0,
) -> ClusterState:
    """What most pods are asked for, if that is still legal: an operator that starts anew moves nothing by starting.

    Raises: InvalidSpec if the bounds hold no legal split.
    """
    status = status or ServiceStatus()
    specs = {each.metadata.name: each.spec for each in partitions if each.spec.band is not None}
    trial = status.canary
    trial_id = trial.decision_id if trial is not None else None
    state = initial_state(config)
    if config.mode != PartitionMode.STATIC and specs:
        state = _take_up(state, config, _without(specs, trial_id), status, now_s)
    state = replace(
        state,
        proven=_band(status.proven) if status.proven is not None else None,
        moves_s=_moves(specs, status, now_s),
    )
    if trial is not None and trial.stage is CanaryStage.ROLLED_BACK:
        state = replace(state, refusals=(_refusal(trial, state.target, config),))
    elif trial is not None and config.mode == PartitionMode.AUTO:
        state = replace(state, canary=_canary(trial, config, specs, status))
    return fit_state(state, config, now_s)


def kept_wishes(observed: Observed) -> tuple[dict[str, Wish], Wish | None]:
    """What each pod is asked for, and most of those that try nothing: for a service without a loop, which its class refuses.

    Nobody would judge a trial: its pods are asked for what most are. None: no pod is asked for anything.
    """
    specs = {name: each.spec for name, each in observed.partitions.items() if each.spec.band is not None}
    status = observed.service.status or ServiceStatus()
    trial_id = status.canary.decision_id if status.canary is not None else None
    usual = _without(specs, trial_id)
    most = _most_common(usual) if usual else None
    kept = {name: _wish(spec) for name, spec in specs.items() if most is None or spec.decision_id != trial_id}
    return kept, most


def pinned_split(partitions: Iterable[SemiPDPartition]) -> Partition | None:
    """The split that a pin had asked of most pods."""
    pins = [each.spec.target for each in partitions if each.spec.decision_id.startswith(PINNED_PREFIX)]
    return _partition(Counter(pins).most_common(1)[0][0]) if pins else None


def _without(specs: Specs, decision_id: str | None) -> Sequence[PodPartitionSpec]:
    return [spec for spec in specs.values() if spec.decision_id != decision_id]


def _take_up(
    state: ClusterState,
    config: ClusterConfig,
    specs: Sequence[PodPartitionSpec],
    status: ServiceStatus,
    now_s: float,
) -> ClusterState:
    """By the status if it says what was asked of the pods that try nothing; else by the most of them."""
    wanted = status.requested
    if wanted is not None and not any(spec.target == wanted for spec in specs):
        target = _partition(wanted)
        wish = Wish(
            target=target,
            band=band_around(target, config),
            decision_id=decision_id_at(now_s, "resumed-"),
            reason=Reason.ADOPTED,
            message=f"{target} was asked for before",
        )
        return state.asked(wish, state.settled_s) if target in config.splits else state
    specs = [spec for spec in specs if wanted is None or spec.target == wanted]
    if not specs:
        return state
    wish = _most_common(specs)
    return state.asked(wish, state.settled_s) if wish.target in config.splits else state


def _most_common(specs: Sequence[PodPartitionSpec]) -> Wish:
    counts = Counter(spec.decision_id for spec in specs)
    decision_id = min(counts, key=lambda name: (-counts[name], name))
    return _wish(next(spec for spec in specs if spec.decision_id == decision_id))


def _canary(trial: CanaryStatus, config: ClusterConfig, specs: Specs, status: ServiceStatus) -> Canary | None:
    """The pods that ask for it already, and those that were about to."""
    asking = {name for name, spec in specs.items() if spec.decision_id == trial.decision_id}
    pods = sorted(asking | (set(trial.pods) & specs.keys()))
    target = _partition(trial.partition)
    if not pods or target not in config.splits:
        return None
    found = next((specs[name] for name in sorted(asking)), None)
    return Canary(
        wish=_wish(found) if found is not None else _promised(trial, config, status),
        pods=tuple(pods),
        stage=trial.stage,
        stage_s=to_unix_s(trial.since),
        before=Verdicts(
            attained=trial.attained_before, missed=max(0, trial.judged_before - trial.attained_before)
        ),
    )


def _promised(trial: CanaryStatus, config: ClusterConfig, status: ServiceStatus) -> Wish:
    target = _partition(trial.partition)
    record = next((each for each in status.decisions if each.decision_id == trial.decision_id), None)
    return Wish(
        target=target,
        band=band_around(target, config),
        decision_id=trial.decision_id,
        reason=record.reason if record else Reason.CANARY,
        message=record.message if record else "",
    )


def _refusal(trial: CanaryStatus, base: Partition, config: ClusterConfig) -> Refusal:
    at_s = to_unix_s(trial.since)
    return Refusal(
        split=_partition(trial.partition),
        base=base,
        decision_id=trial.decision_id,
        at_s=at_s,
        until_s=at_s + config.refused_for_s,
    )


def _moves(specs: Specs, status: ServiceStatus, now_s: float) -> tuple[float, ...]:
    """When the loop moved, by the ids of what it decided: they carry the time."""
    ids = {spec.decision_id for spec in specs.values()} | {each.decision_id for each in status.decisions}
    ids |= {status.canary.decision_id} if status.canary is not None else set()
    times = sorted(at_s for at_s in map(moved_at_s, ids) if at_s is not None)
    return tuple(at_s for at_s in times if 0 <= now_s - at_s < HOUR_S)


def _wish(spec: PodPartitionSpec) -> Wish:
    assert spec.band is not None
    return Wish(
        target=_partition(spec.target),
        band=_band(spec.band),
        decision_id=spec.decision_id,
        reason=spec.reason,
        message=spec.message,
    )


def _partition(split: PartitionSplit) -> Partition:
    return Partition(prefill_percent=split.prefill_percent, decode_percent=split.decode_percent)


def _band(band: BandSpec) -> Band:
    return Band(
        prefill_min_percent=band.prefill_min_percent,
        prefill_max_percent=band.prefill_max_percent,
        decode_min_percent=band.decode_min_percent,
        decode_max_percent=band.decode_max_percent,
    )
