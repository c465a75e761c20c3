"""What the status says of a split on trial and of what is proven: enough for another operator to go on from."""

from __future__ import annotations

from semipd_core.api.fields import PartitionSplit
from semipd_core.api.partition import BandSpec
from semipd_core.api.service import MAX_CANARY_PODS, CanaryStage, CanaryStatus
from semipd_core.cluster.state import ClusterState
from semipd_core.partition import Partition
from semipd_operator.plan.times import to_rfc3339


def canary_status(state: ClusterState) -> CanaryStatus | None:
    canary = state.canary
    if canary is not None:
        return CanaryStatus(
            partition=_split(canary.wish.target),
            decision_id=canary.wish.decision_id,
            stage=canary.stage,
            since=to_rfc3339(canary.stage_s),
            pods=canary.pods[:MAX_CANARY_PODS],
            judged_before=canary.before.judged,
            attained_before=canary.before.attained,
        )
    if state.refusals:
        refusal = state.refusals[0]
        return CanaryStatus(
            partition=_split(refusal.split),
            decision_id=refusal.decision_id,
            stage=CanaryStage.ROLLED_BACK,
            since=to_rfc3339(refusal.at_s),
        )
    return None


def proven_status(state: ClusterState) -> BandSpec | None:
    band = state.proven
    if band is None:
        return None
    return BandSpec(
        prefill_min_percent=band.prefill_min_percent,
        prefill_max_percent=band.prefill_max_percent,
        decode_min_percent=band.decode_min_percent,
        decode_max_percent=band.decode_max_percent,
    )


def _split(partition: Partition) -> PartitionSplit:
    return PartitionSplit(prefill_percent=partition.prefill_percent, decode_percent=partition.decode_percent)
