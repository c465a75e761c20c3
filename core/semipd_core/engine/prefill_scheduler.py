"""Which prompts get the next prefill step's tokens: shortest prompt first with aging and a hard cap, or first come first served.

SPF: ascending remaining_tokens - aging * age, age in seconds and aging in tokens per second (Nexus, arXiv 2507.06608,
§2.4 of our algorithms reference: gamma = 15, its unit unstated, hence weak). The cap makes starvation impossible: who has
waited `spf_max_wait_s` goes before everyone younger.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from semipd_core.engine.config import CoordinatorConfig
from semipd_core.engine.request import Request, RequestPhase

NS_PER_S = 1_000_000_000
SortKey = tuple[float, float, str]


class PrefillReason(StrEnum):
    ALL_PLANNED = "AllPlanned"  # nobody waits any more
    BUDGET_SPENT = "BudgetSpent"
    OUT_OF_BLOCKS = "OutOfBlocks"  # the next prompt does not fit; those behind it do not overtake
    OUT_OF_SLOTS = "OutOfSlots"


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What admitting a request takes."""

    blocks: int  # available blocks used up, cached ones that are idle included
    cached_tokens: int  # need no computing


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillRoom:
    budget_tokens: int
    blocks: int  # that new requests may take, the reserve for decoding already deducted
    slots: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    request: Request
    num_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillDecision:
    chunks: list[Chunk]
    reason: PrefillReason


def schedule_prefill(
    candidates: Iterable[Request],
    room: PrefillRoom,
    need_of: Callable[[Request], Need],
    config: CoordinatorConfig,
    now_ns: int,
) -> PrefillDecision:
    """Share one step's token budget among prompts, the last one chunked.

    Once one request does not fit, no further request is admitted, but those that hold their blocks already go on.
    """
    chunks: list[Chunk] = []
    tokens, blocks, slots = room.budget_tokens, room.blocks, room.slots
    misfit: PrefillReason | None = None
    for request in in_order(candidates, config, now_ns):
        if tokens == 0:
            return PrefillDecision(chunks=chunks, reason=PrefillReason.BUDGET_SPENT)
        cached = 0
        if request.phase is RequestPhase.WAITING:
            misfit = misfit or (PrefillReason.OUT_OF_SLOTS if slots == 0 else None)
            if misfit:
                continue
            need = need_of(request)
            if need.blocks > blocks:
                misfit = PrefillReason.OUT_OF_BLOCKS
                continue
            blocks, slots, cached = blocks - need.blocks, slots - 1, need.cached_tokens
        chunks.append(Chunk(request=request, num_tokens=min(request.remaining_tokens - cached, tokens)))
        tokens -= chunks[-1].num_tokens
    return PrefillDecision(chunks=chunks, reason=misfit or PrefillReason.ALL_PLANNED)


def in_order(candidates: Iterable[Request], config: CoordinatorConfig, now_ns: int) -> Iterator[Request]:
    """Those with tokens left to plan, most urgent first."""
    key_of = SORT_KEYS[config.prefill_policy]
    heap = [
        (key_of(request, config, now_ns), request) for request in candidates if request.remaining_tokens > 0
    ]
    heapq.heapify(heap)
    while heap:
        yield heapq.heappop(heap)[1]


def spf_key(request: Request, config: CoordinatorConfig, now_ns: int) -> SortKey:
    age_s = (now_ns - request.arrived_ns) / NS_PER_S
    if age_s >= config.spf_max_wait_s:
        return (0, request.arrived_ns, request.request_id)
    return (1, request.remaining_tokens - config.spf_aging_tokens_per_s * age_s, request.request_id)


def fcfs_key(request: Request, _config: CoordinatorConfig, _now_ns: int) -> SortKey:
    return (0, request.arrived_ns, request.request_id)


SORT_KEYS: Mapping[str, Callable[[Request, CoordinatorConfig, int], SortKey]] = {
    "SPF": spf_key,
    "FCFS": fcfs_key,
}
