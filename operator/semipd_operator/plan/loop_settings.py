"""What the cluster loop is told of a service in a cluster, and where it takes up after a restart of the operator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from semipd_core.api.fields import Device
from semipd_core.api.partition import PodPartitionSpec, SemiPDPartition
from semipd_core.api.service import PartitionMode
from semipd_core.cluster.loop import initial_state
from semipd_core.cluster.state import ClusterConfig, ClusterState, band_around, decision_id_at
from semipd_core.partition import Band, Partition, Wish
from semipd_core.policies.splits import nearest_split
from semipd_core.service_settings import partition_settings, slo_targets
from semipd_operator.plan.effective import Effective

ROUNDS_PER_WINDOW = 4
MIN_WINDOW_S = 20.0
ROUNDS_PER_AVERAGE = 3  # 45 s at the usual 15 s


def loop_config(effective: Effective, round_s: float) -> ClusterConfig:
    """`round_s`: the time from one look to the next."""
    spec = effective.spec
    return replace(
        ClusterConfig.of_settings(
            partition_settings(spec.partition),
            slo_targets(spec.slo),
            takes_turns=effective.device is Device.CPU,
        ),
        moves_per_hour=effective.max_switches_per_hour,
        window_s=max(MIN_WINDOW_S, ROUNDS_PER_WINDOW * round_s),
        stale_after_s=2 * round_s,
        settle_s=2 * round_s,
        average_s=ROUNDS_PER_AVERAGE * round_s,
    )


def resume_state(config: ClusterConfig, partitions: Iterable[SemiPDPartition]) -> ClusterState:
    """Where most pods are asked to be, if that is still legal: an operator that starts anew moves nothing by starting.

    Raises: InvalidSpec if the bounds hold no legal split.
    """
    state = initial_state(config)
    specs = [partition.spec for partition in partitions if partition.spec.band is not None]
    if config.mode != PartitionMode.AUTO or not specs:
        return state
    counts = Counter(spec.decision_id for spec in specs)
    decision_id = min(counts, key=lambda name: (-counts[name], name))
    spec = next(spec for spec in specs if spec.decision_id == decision_id)
    target = _partition(spec)
    if target not in config.splits:
        return state
    return replace(
        state,
        target=target,
        band=_band(spec),
        decision_id=spec.decision_id,
        reason=spec.reason,
        message=spec.message,
    )


def fit_state(state: ClusterState, config: ClusterConfig, now_s: float) -> ClusterState:
    """`state` where the bounds still hold it; else at the nearest legal split, with all that it has learned.

    Raises: InvalidSpec if the bounds hold no legal split.
    """
    band, wanted = state.band, band_around(state.target, config)
    if state.target in config.splits and config.bounds.encloses(band):
        return state
    target = nearest_split(config.splits, state.target)
    return replace(
        state,
        target=target,
        band=wanted if target == state.target else band_around(target, config),
        decision_id=decision_id_at(now_s),
        reason="BoundsChanged",
        message=f"the bounds have changed: {target} is the nearest split inside them",
        settled_s=now_s,
    )


def wish_of(state: ClusterState, config: ClusterConfig) -> Wish:
    """What every pod is asked for. Only `Auto` leaves the agents room; what is fixed is pinned to the point."""
    if config.mode == PartitionMode.AUTO:
        return Wish(
            target=state.target,
            band=state.band,
            decision_id=state.decision_id,
            reason=state.reason,
            message=state.message,
        )
    target = initial_state(config).target
    return Wish(
        target=target,
        band=Band.only(target),
        decision_id=f"{config.mode.lower()}-{target.prefill_percent}-{target.decode_percent}",
        reason=config.mode,
        message=f"mode {config.mode}: the service stays at {target}",
        pinned=True,
    )


def _partition(spec: PodPartitionSpec) -> Partition:
    return Partition(prefill_percent=spec.target.prefill_percent, decode_percent=spec.target.decode_percent)


def _band(spec: PodPartitionSpec) -> Band:
    band = spec.band
    assert band is not None
    return Band(
        prefill_min_percent=band.prefill_min_percent,
        prefill_max_percent=band.prefill_max_percent,
        decode_min_percent=band.decode_min_percent,
        decode_max_percent=band.decode_max_percent,
    )
