"""How can green contexts divide a GPU's SMs between prefill and decode? Pure.

A green context has a group of SMs in the driver's steps, or what such a group leaves. Prefill gets the group, because its kernels
may launch clusters, for which a remainder gives no guarantee; decode gets the remainder, or all SMs.
Source: CUDA Programming Guide 4.6 (granularity by compute capability); `cuDevSmResourceSplitByCount`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from semipd_core.errors import InvalidSpec
from semipd_core.partition import Band, Partition
from semipd_core.sm_grant import MAX_STEP_SMS, Grant

MAX_SPLITS = 8  # stream pairs and CUDA graphs are made for each at start
GRID_PERCENTS = range(10, 81, 10)  # prefill's shares that policies ask for (`policies.splits.DISJOINT`)


@dataclass(frozen=True, slots=True, kw_only=True)
class SmRules:
    """What the driver keeps to when it groups SMs, in SMs."""

    granularity: int
    minimum: int


def plan_sm_rules(compute_capability: tuple[int, int]) -> SmRules:
    """For planning, and for drivers that do not say. Source: CUDA Programming Guide 4.6, table of granularities."""
    match compute_capability[0]:
        case 6 | 7:
            return SmRules(granularity=2, minimum=2)
        case 8:
            return SmRules(granularity=2, minimum=4)
        case _:
            return SmRules(granularity=8, minimum=8)


class Layout(StrEnum):
    DISJOINT = "Disjoint"  # decode has what prefill leaves
    ASYMMETRIC = "Asymmetric"  # prefill is confined, decode has all SMs


@dataclass(frozen=True, slots=True, kw_only=True)
class SmSplit:
    """SMs of each phase, of `sm_count` that the device has."""

    prefill_sms: int
    decode_sms: int
    sm_count: int

    def __post_init__(self) -> None:
        for name in ("prefill_sms", "decode_sms"):
            if not 1 <= getattr(self, name) <= self.sm_count:
                raise InvalidSpec(name, getattr(self, name), f"1..{self.sm_count}")

    @property
    def partition(self) -> Partition:
        """Percents of the SMs, rounded down: disjoint splits never sum to more than 100."""
        return Partition(
            prefill_percent=to_percent(self.prefill_sms, self.sm_count),
            decode_percent=to_percent(self.decode_sms, self.sm_count),
        )

    @property
    def confines_decode(self) -> bool:
        return self.decode_sms < self.sm_count

    def __str__(self) -> str:
        return f"{self.prefill_sms} + {self.decode_sms} of {self.sm_count} SMs"


def to_percent(sms: int, sm_count: int) -> int:
    return max(1, 100 * sms // sm_count)


def legal_splits(
    sm_count: int, granularity: int, minimum: int, bounds: Band, layout: Layout = Layout.DISJOINT
) -> tuple[SmSplit, ...]:
    """At most MAX_SPLITS, by prefill's SMs ascending; `granularity` and `minimum` are the driver's, in SMs.

    All that lie within `bounds` if they are few enough, else the nearest to each share that policies ask for. Where the percents
    of the SMs all miss `bounds`, what the shares inside come to: a wish is rounded too (`read_green_grant`).

    Raises: InvalidSpec if `bounds` hold none of either, or for numbers that no device has.
    """
    for name, value in (("granularity", granularity), ("minimum", minimum)):
        if not 1 <= value <= sm_count:
            raise InvalidSpec(name, value, f"1..{sm_count}")
    first = -(-minimum // granularity) * granularity
    last = sm_count - minimum if layout is Layout.DISJOINT else sm_count
    every = [_split(prefill_sms, sm_count, layout) for prefill_sms in range(first, last + 1, granularity)]
    inside = [split for split in every if bounds.holds(split.partition)] or _rounded(every, bounds, layout)
    if not inside:
        raise InvalidSpec(
            "spec.partition.bounds",
            f"prefill {bounds.prefill_min_percent}..{bounds.prefill_max_percent}, "
            f"decode {bounds.decode_min_percent}..{bounds.decode_max_percent}",
            "bounds that hold one of " + (", ".join(str(split.partition) for split in every) or "nothing"),
        )
    return tuple(inside if len(inside) <= MAX_SPLITS else _thinned(inside, layout))


def nearest_split(splits: Sequence[SmSplit], wanted: Partition) -> SmSplit:
    """The split whose part of prefill in all that is given out is nearest: oversubscribed wishes become their proportion."""
    assert splits, "no legal split"
    if all(not split.confines_decode for split in splits):
        share = wanted.prefill_percent / 100
    else:
        share = wanted.prefill_percent / max(100, wanted.prefill_percent + wanted.decode_percent)
    return min(splits, key=lambda split: abs(split.prefill_sms - share * split.sm_count))


def read_green_grant(requested_percent: int, granted_sms: int, sm_count: int) -> Grant:
    """As `sm_grant.read_grant`, for green contexts: they round to the nearest step, up or down.

    Raises: ValueError for counts that no GPU has.
    """
    if not 1 <= granted_sms <= sm_count:
        raise ValueError(f"granted_sms is {granted_sms}, allowed: 1..{sm_count}")
    if abs(granted_sms - requested_percent * sm_count / 100) <= MAX_STEP_SMS:
        return Grant(percent=requested_percent, reason=None)
    return Grant(
        percent=to_percent(granted_sms, sm_count),
        reason=f"{granted_sms} of {sm_count} SMs are further from {requested_percent} % than rounding explains",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphKey:
    """What a captured decode step is bound to; `split` is None where one graph serves all splits."""

    split: SmSplit | None
    bucket: int  # rows that the graph was captured for


def decode_graph_key(split: SmSplit | None, bucket: int) -> GraphKey:
    """The SMs of a graph are those of the stream that it was captured on, wherever it is launched.

    So decode that keeps all SMs needs one graph for all splits, decode that is confined one for each.
    Source: CUDA Programming Guide 4.6.5.
    """
    return GraphKey(split=split if split is not None and split.confines_decode else None, bucket=bucket)


def _split(prefill_sms: int, sm_count: int, layout: Layout) -> SmSplit:
    decode_sms = sm_count if layout is Layout.ASYMMETRIC else sm_count - prefill_sms
    return SmSplit(prefill_sms=prefill_sms, decode_sms=decode_sms, sm_count=sm_count)


def _rounded(every: Sequence[SmSplit], bounds: Band, layout: Layout) -> list[SmSplit]:
    """Nearest to the grid's shares inside `bounds`, no further than a step: the agent has judged the bounds by that grid."""
    chosen = set()
    for percent in GRID_PERCENTS:
        decode_percent = 100 - percent if layout is Layout.DISJOINT else 100
        if every and bounds.holds(Partition(prefill_percent=percent, decode_percent=decode_percent)):
            sms = percent * every[0].sm_count / 100
            nearest = min(every, key=lambda split: abs(split.prefill_sms - sms))
            chosen |= {nearest} if abs(nearest.prefill_sms - sms) <= MAX_STEP_SMS else set()
    return sorted(chosen, key=lambda split: split.prefill_sms)


def _thinned(splits: Sequence[SmSplit], layout: Layout) -> list[SmSplit]:
    """Nearest to the grid of the policies; where they have none (decode on all SMs), evenly spread."""
    sm_count = splits[0].sm_count
    if layout is Layout.DISJOINT:
        wanted = [percent * sm_count / 100 for percent in GRID_PERCENTS]
    else:
        low, high = splits[0].prefill_sms, splits[-1].prefill_sms
        wanted = [low + (high - low) * step / (MAX_SPLITS - 1) for step in range(MAX_SPLITS)]
    chosen = {
        min(splits, key=lambda split: abs(split.prefill_sms - sms))
        for sms in wanted
        if splits[0].prefill_sms - MAX_STEP_SMS / 2 <= sms <= splits[-1].prefill_sms + MAX_STEP_SMS / 2
    }
    return sorted(chosen, key=lambda split: split.prefill_sms)
