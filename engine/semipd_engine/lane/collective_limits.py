"""How much of a GPU the kernels of collectives may hold at a time, so that lanes cannot wait for each other for ever. Pure.

A collective's kernel stays on its SMs until its peers on the other GPUs run too. Two lanes are two communicators in two
processes, whose kernels no order binds: if one lane's kernel kept out the other's on one GPU, and the other way round on the
next, neither would end. So all of them must fit beside each other: every lane that may be there at a time, each with its own
SMs, within the smallest share. Kernels that compute end by themselves and only delay.

Source: NCCL user guide, "Using multiple NCCL communicators concurrently", NCCL_MAX_CTAS, NCCL_CGA_CLUSTER_SIZE.
NCCL_LAUNCH_ORDER_IMPLICIT orders the communicators of one process, and a lane has one.
"""

from __future__ import annotations

from collections.abc import Mapping

from semipd_core.partition import Band, Isolation

LANES_AT_ONCE = 4  # prefill and decode, and the two that are about to take over from them
CTAS_MAX = 8  # more than a link needs takes SMs from what computes beside it; unmeasured


def smallest_percent(isolation: Isolation, bounds: Band | None) -> int:
    """Of the shares that a lane of the engine may have; only MPS confines a process."""
    if isolation is not Isolation.MPS:
        return 100
    return min(bounds.prefill_min_percent, bounds.decode_min_percent) if bounds is not None else 1


def max_ctas(device_sms: int, percent: int) -> int:
    """CTAs of one collective at most, the same for all lanes of an engine. percent: the smallest share of a lane."""
    return max(1, min(CTAS_MAX, device_sms * percent // 100 // LANES_AT_ONCE))


def nccl_environment(device_sms: int, percent: int) -> Mapping[str, str]:
    """What NCCL reads when it is first used. Clusters are off: theirs would have to find SMs beside each other."""
    return {"NCCL_MAX_CTAS": str(max_ctas(device_sms, percent)), "NCCL_CGA_CLUSTER_SIZE": "0"}
