"""Which decoding requests take part in the next decode step: first come, first served, as far as rows and blocks reach."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from semipd_core.engine.request import Request


class DecodeReason(StrEnum):
    ALL_READY = "AllReady"  # every request that may go on does
    ROWS_FULL = "RowsFull"
    BLOCKS_FENCED = "BlocksFenced"  # some rows wait for blocks that steps in flight still refer to
    OUT_OF_BLOCKS = "OutOfBlocks"  # `victim` must give its blocks back first


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeDecision:
    """`victim` is set only with OUT_OF_BLOCKS: preempt it and decide again; the rows are then void."""

    rows: list[Request]
    victim: Request | None
    reason: DecodeReason


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeRoom:
    max_rows: int
    available_blocks: int
    fenced_blocks: int  # become available without anyone losing anything
    block_tokens: int


def schedule_decode(running: Sequence[Request], room: DecodeRoom) -> DecodeDecision:
    """Decide one step over `running`, oldest hand-over first."""
    rows: list[Request] = []
    available, fenced = room.available_blocks, room.fenced_blocks
    reason = DecodeReason.ALL_READY
    for request in running:
        if not request.can_decode:
            continue
        if len(rows) == room.max_rows:
            reason = DecodeReason.ROWS_FULL
            break
        if request.planned >= len(request.blocks) * room.block_tokens:
            if available:
                available -= 1
            elif fenced:
                fenced -= 1
                reason = DecodeReason.BLOCKS_FENCED
                continue
            else:
                victim = latest_arrived(running)
                return DecodeDecision(rows=[], victim=victim, reason=DecodeReason.OUT_OF_BLOCKS)
        rows.append(request)
    return DecodeDecision(rows=rows, victim=None, reason=reason)


def latest_arrived(running: Iterable[Request]) -> Request:
    """Who is preempted: the one that came last, so that the oldest always gets on."""
    return max(running, key=lambda request: (request.arrived_ns, request.request_id))
