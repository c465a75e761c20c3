"""What the loops are told of a service: the same for one machine and for a cluster."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from msgspec import structs

from semipd_core.agent_config import PartitionSettings
from semipd_core.api.fields import Device
from semipd_core.api.service import IsolationChoice, PartitionSpec, ServiceSpec
from semipd_core.api.slo import SloSpec
from semipd_core.cluster.state import bounds_of
from semipd_core.errors import InvalidSpec
from semipd_core.partition import Isolation
from semipd_core.policies.splits import legal_splits
from semipd_core.telemetry import SloTargets

AUTO_ORDER = (Isolation.MPS, Isolation.GREEN_CONTEXT, Isolation.NONE)


def slo_targets(slo: SloSpec) -> SloTargets:
    return SloTargets(
        ttft_percentile=slo.ttft.percentile,
        ttft_ms=slo.ttft.target_milliseconds,
        tpot_percentile=slo.tpot.percentile,
        tpot_ms=slo.tpot.target_milliseconds,
    )


def isolation_choices(
    partition: PartitionSpec, allowed: Sequence[Isolation] = tuple(Isolation)
) -> tuple[Isolation, ...]:
    """What an engine may run with, the best first. `allowed`: by the class, for `Auto` alone; at least one."""
    if partition.isolation is not IsolationChoice.AUTO:
        return (Isolation(partition.isolation.value),)
    return tuple(each for each in AUTO_ORDER if each in allowed) or tuple(allowed[:1])


def ranks_defect(
    spec: ServiceSpec, device: Device, allowed: Sequence[Isolation] = tuple(Isolation)
) -> InvalidSpec | None:
    """Of several GPUs per engine where nothing but green contexts may run. `device`: in force; `allowed`: as above."""
    ranks, choices = spec.resources.gpus_per_engine, isolation_choices(spec.partition, allowed)
    if device is Device.CPU or ranks == 1 or choices != (Isolation.GREEN_CONTEXT,):
        return None
    given = f"{spec.partition.isolation.value} with gpusPerEngine {ranks}"
    permitted = "MPS, None or Unified: green contexts serve one GPU in this version"
    return InvalidSpec("spec.partition.isolation", given, permitted)


def partition_settings(
    partition: PartitionSpec, allowed: Sequence[Isolation] = tuple(Isolation)
) -> PartitionSettings:
    """With the isolation that is asked for first; agents on CUDA may fall back. `allowed`: as in `isolation_choices`."""
    isolation, *fallbacks = isolation_choices(partition, allowed)
    initial, bounds = partition.initial_split, partition.bounds
    return PartitionSettings(
        mode=partition.mode.value,
        policy=partition.policy.value,
        isolation=isolation,
        fallbacks=tuple(fallbacks),
        initial_prefill_percent=initial.prefill_percent,
        initial_decode_percent=initial.decode_percent,
        prefill_min_percent=bounds.prefill_min_percent,
        prefill_max_percent=bounds.prefill_max_percent,
        decode_min_percent=bounds.decode_min_percent,
        decode_max_percent=bounds.decode_max_percent,
        cooldown_seconds=partition.cooldown_seconds,
    )


def fleet_settings(settings: PartitionSettings, in_force: Collection[Isolation]) -> PartitionSettings:
    """By which the loops of a fleet go, whose pods say that they run with `in_force`.

    A split is asked of all pods, so it must be one that each can run. Splits of green contexts are legal under MPS, so one pod
    with green contexts decides. A pod without shares has nothing to split, and decides only where all are so. Bounds that hold
    no split of green contexts are kept in the pods that can: the others run the split nearest to what is asked. Without any
    shares every lane has the whole device, whatever the bounds.
    """
    fallen = [each for each in settings.fallbacks if each in in_force]
    if Isolation.GREEN_CONTEXT in fallen and _has_splits(settings):
        return structs.replace(settings, isolation=Isolation.GREEN_CONTEXT)
    if set(in_force) == {Isolation.NONE} == set(fallen):
        return structs.replace(
            settings, isolation=Isolation.NONE, prefill_max_percent=100, decode_max_percent=100
        )
    return settings


def _has_splits(settings: PartitionSettings) -> bool:
    """Whether the bounds hold a split of green contexts."""
    try:
        return bool(legal_splits(Isolation.GREEN_CONTEXT, bounds_of(settings)))
    except InvalidSpec:
        return False
