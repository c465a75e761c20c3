"""What to measure, most valuable first, and what of it next in the time that is left. Pure.

Value: a loop that has a step's lone cost can forecast TPOT and TTFT at the present split; with both lanes together it knows the
price of sharing; with shares it knows what a move would bring; the rest sharpens all three. Any beginning of the plan is of use.
Settings with the same caps are neighbours within a tier, because other caps mean other lane processes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from semipd_core.partition import Partition, Role
from semipd_core.profile.format import Setting, StepLoad

SHARES = (50, 25, 75, 40, 60, 90, 15)  # below 100; each halves the largest gap left, about
SPLITS = ((80, 100), (50, 50), (40, 100), (60, 100), (30, 70), (70, 30), (20, 100), (100, 60))


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the engine can hold."""

    chunk_tokens: int  # of a prefill step
    max_rows: int  # of a decode step
    max_context_tokens: int
    kv_tokens: (
        int  # in all blocks that may be used; no block is read twice in a step, so that caches do not flatter
    )


def plan_measurements(limits: Limits) -> tuple[Setting, ...]:
    """All that is worth measuring within `limits`, without repeats."""
    loads = _Loads(limits)
    whole = Partition(prefill_percent=100, decode_percent=100)
    settings = [
        *(_alone(load, whole) for load in loads.corners()),
        *_together(loads, whole),
        *(setting for share in SHARES[:3] for setting in _at_share(loads, share)),
        *(setting for p, d in SPLITS[:3] for setting in _together(loads, _split(p, d))),
        *(_alone(load, whole) for load in loads.grid()),
        *(setting for share in SHARES[3:] for setting in _at_share(loads, share)),
        *(setting for p, d in SPLITS[3:] for setting in _together(loads, _split(p, d))),
    ]
    return tuple(dict.fromkeys(settings))


def choose_next(
    plan: Sequence[Setting],
    done: Collection[Setting],
    left_s: float,
    expected_s: Callable[[Setting], float],
) -> Setting | None:
    """The first setting that is not done and fits into the time that is left; None if none does."""
    known = set(done)
    return next((setting for setting in plan if setting not in known and expected_s(setting) <= left_s), None)


def _alone(load: StepLoad, caps: Partition) -> Setting:
    return Setting(load=load, prefill_percent=caps.prefill_percent, decode_percent=caps.decode_percent)


def _split(prefill_percent: int, decode_percent: int) -> Partition:
    return Partition(prefill_percent=prefill_percent, decode_percent=decode_percent)


def _at_share(loads: _Loads, share: int) -> Iterator[Setting]:
    """Each phase alone with that share, the other lane idle with the same one."""
    for load in (loads.typical_decode, loads.typical_prefill):
        yield _alone(load, _split(share, share))


def _together(loads: _Loads, caps: Partition) -> Iterator[Setting]:
    """Each phase measured while the other is busy."""
    decode, prefill = loads.typical_decode, loads.typical_prefill
    for load, beside in ((decode, prefill), (prefill, decode)):
        yield Setting(
            load=load,
            prefill_percent=caps.prefill_percent,
            decode_percent=caps.decode_percent,
            beside=beside,
        )


@dataclass(frozen=True, slots=True)
class _Loads:
    limits: Limits

    @property
    def typical_prefill(self) -> StepLoad:
        return self._prefill(self.limits.chunk_tokens, 0)

    @property
    def typical_decode(self) -> StepLoad:
        return self._decode(max(1, self.limits.max_rows // 4), self._contexts()[1])

    def corners(self) -> list[StepLoad]:
        """The fewest that tell base, slope and context apart for both phases, the typical one first."""
        short, middle, long = self._contexts()
        chunk, rows = self.limits.chunk_tokens, self.limits.max_rows
        return [
            self.typical_decode,
            self.typical_prefill,
            self._decode(1, short),
            self._prefill(max(1, chunk // 8), 0),
            self._decode(rows, short),
            self._prefill(chunk, middle),
            self._decode(max(1, rows // 4), long),
            self._prefill(max(1, chunk // 2), 0),
        ]

    def grid(self) -> list[StepLoad]:
        """Every power of four of rows and tokens at every context."""
        rows = _powers(self.limits.max_rows)
        tokens = [self.limits.chunk_tokens // part for part in (1, 4, 16) if self.limits.chunk_tokens >= part]
        contexts = self._contexts()
        decode = [self._decode(r, context) for r, context in itertools.product(rows, contexts)]
        prefill = [self._prefill(t, context) for t, context in itertools.product(tokens, (0, *contexts))]
        pairs = itertools.zip_longest(decode, prefill)  # so that half a grid is half of both
        return [load for pair in pairs for load in pair if load is not None]

    def _contexts(self) -> tuple[int, int, int]:
        """Short, middle, long: per row, before the step."""
        longest = self.limits.max_context_tokens
        return max(1, longest // 32), max(1, longest // 8), max(1, longest // 2)

    def _prefill(self, tokens: int, context_tokens: int) -> StepLoad:
        """One sequence, as long as the model and the cache allow."""
        most = min(self.limits.max_context_tokens, self.limits.kv_tokens // 2)
        tokens = min(tokens, most)
        return StepLoad(
            role=Role.PREFILL, rows=1, tokens=tokens, context_tokens=min(context_tokens, most - tokens)
        )

    def _decode(self, rows: int, context_tokens: int) -> StepLoad:
        """Contexts shrink, then rows, to fit into half of the cache: the other half is for the lane beside."""
        most = self.limits.kv_tokens // 2
        rows = max(1, min(rows, most // 2))
        context_tokens = min(context_tokens, self.limits.max_context_tokens - 1, most // rows - 1)
        return StepLoad(role=Role.DECODE, rows=rows, tokens=1, context_tokens=max(1, context_tokens))


def _powers(most: int) -> list[int]:
    """1, 4, 16, … below `most`, then `most`."""
    return [*(4**n for n in range(16) if 4**n < most), most]
