"""What the loops are told of a service: the same for one machine and for a cluster."""

from __future__ import annotations

from semipd_core.agent_config import PartitionSettings
from semipd_core.api.service import IsolationChoice, PartitionSpec
from semipd_core.api.slo import SloSpec
from semipd_core.partition import Isolation
from semipd_core.telemetry import SloTargets


def slo_targets(slo: SloSpec) -> SloTargets:
    return SloTargets(
        ttft_percentile=slo.ttft.percentile,
        ttft_ms=slo.ttft.target_milliseconds,
        tpot_percentile=slo.tpot.percentile,
        tpot_ms=slo.tpot.target_milliseconds,
    )


def partition_settings(partition: PartitionSpec) -> PartitionSettings:
    """Isolation `Auto` is MPS, on a CPU in its CPU form."""
    automatic = partition.isolation is IsolationChoice.AUTO
    initial, bounds = partition.initial_split, partition.bounds
    return PartitionSettings(
        mode=partition.mode.value,
        policy=partition.policy.value,
        isolation=Isolation.MPS if automatic else Isolation(partition.isolation.value),
        initial_prefill_percent=initial.prefill_percent,
        initial_decode_percent=initial.decode_percent,
        prefill_min_percent=bounds.prefill_min_percent,
        prefill_max_percent=bounds.prefill_max_percent,
        decode_min_percent=bounds.decode_min_percent,
        decode_max_percent=bounds.decode_max_percent,
        cooldown_seconds=partition.cooldown_seconds,
    )
