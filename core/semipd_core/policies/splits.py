"""Which splits a back-end can run, within a service's bounds."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from semipd_core.errors import InvalidSpec
from semipd_core.partition import Band, Isolation, Partition

FREE_STEP_PERCENT = 5  # of caps under MPS; finer steps are within the noise of any latency
LEAST_PERCENT = 10  # under it a lane all but stands still
WHOLE = Partition(prefill_percent=100, decode_percent=100)

# Green contexts are made at start, at most 8 pairs (memory of their CUDA graphs): every tenth, decode keeping at least 20 %.
DISJOINT = tuple(
    Partition(prefill_percent=prefill, decode_percent=100 - prefill) for prefill in range(80, 0, -10)
)


@lru_cache(maxsize=1024)  # of a fleet: asked for at every round of every service
def legal_splits(
    isolation: Isolation, bounds: Band, *, step_percent: int = FREE_STEP_PERCENT
) -> tuple[Partition, ...]:
    """By prefill cap, then decode cap, ascending.

    MPS: both caps free in steps, sums above 100 allowed. GreenContext: disjoint pairs. None and Unified have one split, whatever
    the bounds. `bounds` may also be a node's band.

    Raises: InvalidSpec if no legal split lies within `bounds`.
    """
    if isolation in (Isolation.NONE, Isolation.UNIFIED):
        return (WHOLE,)
    inside = tuple(split for split in _all(isolation, step_percent) if bounds.holds(split))
    if not inside:
        raise InvalidSpec(
            "spec.partition.bounds",
            f"prefill {bounds.prefill_min_percent}..{bounds.prefill_max_percent}, "
            f"decode {bounds.decode_min_percent}..{bounds.decode_max_percent}",
            _allowed(isolation, step_percent),
        )
    return inside


def nearest_split(splits: Sequence[Partition], wanted: Partition) -> Partition:
    """The legal split closest to `wanted`; disjoint ones compare by proportion, which is what oversubscribed caps mean."""
    assert splits, "no legal split"
    if all(split.prefill_percent + split.decode_percent <= 100 for split in splits):
        total = max(100, wanted.prefill_percent + wanted.decode_percent)
        prefill, decode = 100 * wanted.prefill_percent / total, 100 * wanted.decode_percent / total
    else:
        prefill, decode = wanted.prefill_percent, wanted.decode_percent
    return min(
        splits, key=lambda split: abs(split.prefill_percent - prefill) + abs(split.decode_percent - decode)
    )


def _all(isolation: Isolation, step_percent: int) -> list[Partition]:
    if isolation is Isolation.GREEN_CONTEXT:
        return sorted(DISJOINT, key=lambda split: split.prefill_percent)
    first = -(-LEAST_PERCENT // step_percent) * step_percent
    caps = range(first, 101, step_percent)
    return [Partition(prefill_percent=prefill, decode_percent=decode) for prefill in caps for decode in caps]


def _allowed(isolation: Isolation, step_percent: int) -> str:
    if isolation is Isolation.GREEN_CONTEXT:
        return "bounds that hold one of " + ", ".join(str(split) for split in DISJOINT)
    return f"bounds that hold a multiple of {step_percent} in {LEAST_PERCENT}..100 for each lane"
