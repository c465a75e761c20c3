"""The one lane of `Unified`: decode rows first, then prompt chunks, under one token budget (chunked prefill).

The prompts' order is that of the prefill lane, so that a comparison of the two forms compares nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from semipd_core.engine.config import CoordinatorConfig
from semipd_core.engine.decode_scheduler import DecodeDecision, DecodeRoom, schedule_decode
from semipd_core.engine.prefill_scheduler import Need, PrefillDecision, PrefillRoom, schedule_prefill
from semipd_core.engine.request import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedDecision:
    """`prefill` is None where the decode rows wait for a victim to be preempted."""

    decode: DecodeDecision
    prefill: PrefillDecision | None


def schedule_mixed(
    running: Sequence[Request],
    prompts: Iterable[Request],
    decode_room: DecodeRoom,
    prefill_room: PrefillRoom,
    need_of: Callable[[Request], Need],
    config: CoordinatorConfig,
    now_ns: int,
) -> MixedDecision:
    """Decide one mixed step. `prefill_room.budget_tokens` is that of the whole step."""
    budget = prefill_room.budget_tokens
    decode = schedule_decode(running, replace(decode_room, max_rows=min(decode_room.max_rows, budget)))
    if decode.victim is not None:
        return MixedDecision(decode=decode, prefill=None)
    left = replace(prefill_room, budget_tokens=budget - len(decode.rows))
    return MixedDecision(decode=decode, prefill=schedule_prefill(prompts, left, need_of, config, now_ns))
