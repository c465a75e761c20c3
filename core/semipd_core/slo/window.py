"""Counts what a front end sees, in slots of SLOT_SECONDS, and hands them out as `telemetry.WindowSlot`s.

How a front end uses it, with one clock `now_s` = unix time in seconds for the recorder (the judge may use any clock):

    recorder = WindowRecorder()                          # one per front end
    recorder.arrived(now_s, prompt_tokens)               # a request was accepted
    judge = RequestJudge(slo, arrived_s, max_tokens)     # one per choice (n > 1: n judges)
    recorder.cached(now_s, cached_tokens)                # once its prefix hits are known
    recorder.tokens(now_s, count)                        # tokens sent, every time
    recorder.record(now_s, judge.first_token(now_s))     # likewise .token(now_s, count), .finished(now_s), .failed(now_s)
    recorder.record(now_s, judge.check(now_s))           # every 0.5 s for each open request
    recorder.rejected(now_s)                             # a 429: arrived, rejected and missed in one; no judge, no arrived()
    recorder.errored(now_s)                              # an error of a request that has no judge; else record(judge.failed())
    recorder.slots(now_s)                                # the last SLOTS_KEPT slots, oldest first, for FrontEndReport.slots

`record` takes None, so that a judge's answer can be passed on as it is. Pooling and its meaning: `semipd_core.slo.pooled`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from semipd_core.slo import histogram
from semipd_core.slo.attainment import Judgement, RequestJudge
from semipd_core.telemetry import SLOT_SECONDS, SLOTS_KEPT, WindowSlot

__all__ = ["Judgement", "RequestJudge", "WindowRecorder"]


@dataclass(slots=True, eq=False)
class _Counts:
    """One slot while it can still change; fields as in WindowSlot."""

    arrived: int = 0
    completed: int = 0
    attained: int = 0
    missed: int = 0
    missed_ttft: int = 0
    missed_tpot: int = 0
    rejected: int = 0
    errored: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    ttft_ms: dict[int, int] = field(default_factory=dict)
    tpot_ms: dict[int, int] = field(default_factory=dict)


class WindowRecorder:
    """Mutable, without a clock: every call says when, in unix seconds. Not thread-safe."""

    def __init__(self) -> None:
        self._slots: dict[int, _Counts] = {}

    def arrived(self, now_s: float, prompt_tokens: int) -> None:
        slot = self._at(now_s)
        slot.arrived += 1
        slot.prompt_tokens += prompt_tokens

    def cached(self, now_s: float, tokens: int) -> None:
        """`tokens` of a prompt were found in the prefix cache."""
        self._at(now_s).cached_tokens += tokens

    def tokens(self, now_s: float, count: int) -> None:
        self._at(now_s).output_tokens += count

    def rejected(self, now_s: float) -> None:
        """A request was refused (429): it counts as arrived and as missed."""
        slot = self._at(now_s)
        slot.arrived += 1
        slot.rejected += 1
        slot.missed += 1

    def errored(self, now_s: float) -> None:
        """A request without a judge failed: it counts as missed."""
        slot = self._at(now_s)
        slot.errored += 1
        slot.missed += 1

    def record(self, now_s: float, judgement: Judgement | None) -> None:
        if judgement is None:
            return
        slot = self._at(now_s)
        slot.attained += judgement.attained
        slot.missed += judgement.missed
        slot.missed_ttft += judgement.missed_ttft
        slot.missed_tpot += judgement.missed_tpot
        slot.completed += judgement.completed
        slot.errored += judgement.errored
        if judgement.ttft_ms is not None:
            histogram.add(slot.ttft_ms, judgement.ttft_ms)
        if judgement.tpot_ms is not None:
            histogram.add(slot.tpot_ms, judgement.tpot_ms)

    def slots(self, now_s: float) -> list[WindowSlot]:
        """The last SLOTS_KEPT slots in which something happened, oldest first."""
        self._drop_old(now_s)
        return [_frozen(start_s, self._slots[start_s]) for start_s in sorted(self._slots)]

    def _at(self, now_s: float) -> _Counts:
        start_s = int(now_s // SLOT_SECONDS) * SLOT_SECONDS
        if start_s not in self._slots:
            self._drop_old(now_s)
            self._slots[start_s] = _Counts()
        return self._slots[start_s]

    def _drop_old(self, now_s: float) -> None:
        oldest_s = (int(now_s // SLOT_SECONDS) + 1 - SLOTS_KEPT) * SLOT_SECONDS
        for start_s in [start_s for start_s in self._slots if start_s < oldest_s]:
            del self._slots[start_s]


def _frozen(start_s: int, counts: _Counts) -> WindowSlot:
    return WindowSlot(
        start_s=start_s,
        arrived=counts.arrived,
        completed=counts.completed,
        attained=counts.attained,
        missed=counts.missed,
        missed_ttft=counts.missed_ttft,
        missed_tpot=counts.missed_tpot,
        rejected=counts.rejected,
        errored=counts.errored,
        prompt_tokens=counts.prompt_tokens,
        cached_tokens=counts.cached_tokens,
        output_tokens=counts.output_tokens,
        ttft_ms=dict(counts.ttft_ms),
        tpot_ms=dict(counts.tpot_ms),
    )
