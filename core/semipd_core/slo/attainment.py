"""Does one request attain its SLO? The single definition, used by the front end, the replayer and the simulator.

A request attains if its TTFT and its own TPOT, both seen at the front end, are at or under their targets.
TPOT = (last token − first token) / (tokens − 1); a request of one token is judged by its TTFT alone. An open request is missed as
soon as that is certain; errors are missed. Nothing here reads a clock: `now_s` is any clock, the same for one request.
"""

from __future__ import annotations

from dataclasses import dataclass

from semipd_core.telemetry import SloTargets


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What has become known of a request, for `WindowRecorder.record`.

    `attained` or `missed` is set in exactly one judgement of a request, each other field in at most one. A request missed while
    open is followed by judgements that carry its measurements, so that percentiles hold the late ones too.
    """

    attained: bool = False
    missed: bool = False
    missed_ttft: bool = False
    missed_tpot: bool = False
    completed: bool = False
    errored: bool = False
    ttft_ms: float | None = None
    tpot_ms: float | None = None


class RequestJudge:
    """Follows one request (one choice of it). Every call returns a Judgement to record, or None if nothing new is known.

    A request whose client went away is simply forgotten: no verdict is due. After a resubmission the same judge goes on.
    """

    __slots__ = (
        "_arrived_s",
        "_ended",
        "_first_s",
        "_is_judged",
        "_last_s",
        "_max_tokens",
        "_missed_tpot",
        "_missed_ttft",
        "_num_tokens",
        "_targets",
    )

    def __init__(self, targets: SloTargets, arrived_s: float, max_tokens: int) -> None:
        self._targets = targets
        self._arrived_s = arrived_s
        self._max_tokens = max_tokens
        self._first_s: float | None = None
        self._last_s = arrived_s
        self._num_tokens = 0
        self._is_judged = False
        self._missed_ttft = False
        self._missed_tpot = False
        self._ended = False

    def first_token(self, now_s: float) -> Judgement | None:
        """The first token was sent; it is counted."""
        if self._ended or self._first_s is not None:
            return None
        self._first_s = self._last_s = now_s
        self._num_tokens = 1
        ttft_ms = (now_s - self._arrived_s) * 1000
        return self._judge(missed_ttft=ttft_ms > self._targets.ttft_ms, ttft_ms=ttft_ms)

    def token(self, now_s: float, count: int) -> Judgement | None:
        """`count` further tokens were sent at once. Without a first token yet, the first of them is that."""
        if self._ended or count < 1:
            return None
        if self._first_s is None:
            judgement = self.first_token(now_s)
            self._num_tokens += count - 1
            return judgement
        self._num_tokens += count
        self._last_s = now_s
        return self.check(now_s)

    def check(self, now_s: float) -> Judgement | None:
        """Is a miss certain by now? To be called every half second or so while the request is open."""
        if self._ended:
            return None
        if self._first_s is None:
            late = (now_s - self._arrived_s) * 1000 > self._targets.ttft_ms
            return self._judge(missed_ttft=True) if late and not self._missed_ttft else None
        longest_ms = self._targets.tpot_ms * (self._max_tokens - 1)
        late = self._max_tokens > 1 and (now_s - self._first_s) * 1000 > longest_ms
        return self._judge(missed_tpot=True) if late and not self._missed_tpot else None

    def finished(self, now_s: float) -> Judgement | None:
        """The last token has been sent. A request that ends without any token is judged as if its first came now."""
        if self._ended:
            return None
        self._ended = True
        if self._first_s is None:
            ttft_ms = (now_s - self._arrived_s) * 1000
            late = ttft_ms > self._targets.ttft_ms
            return self._judge(missed_ttft=late, is_final=True, ttft_ms=ttft_ms)
        if self._num_tokens == 1:
            return self._judge(is_final=True)
        tpot_ms = (self._last_s - self._first_s) * 1000 / (self._num_tokens - 1)
        return self._judge(missed_tpot=tpot_ms > self._targets.tpot_ms, is_final=True, tpot_ms=tpot_ms)

    def failed(self, now_s: float) -> Judgement | None:  # noqa: ARG002  # same signature as the other events
        """The request ended in an error."""
        if self._ended:
            return None
        self._ended = True
        missed = not self._is_judged
        self._is_judged = True
        return Judgement(missed=missed, errored=True)

    def _judge(
        self,
        *,
        missed_ttft: bool = False,
        missed_tpot: bool = False,
        is_final: bool = False,
        ttft_ms: float | None = None,
        tpot_ms: float | None = None,
    ) -> Judgement:
        """Each kind of miss, and the verdict, once."""
        new_ttft = missed_ttft and not self._missed_ttft
        new_tpot = missed_tpot and not self._missed_tpot
        self._missed_ttft |= missed_ttft
        self._missed_tpot |= missed_tpot
        is_miss = missed_ttft or missed_tpot
        is_due = not self._is_judged and (is_miss or is_final)
        self._is_judged |= is_due
        return Judgement(
            attained=is_due and not is_miss,
            missed=is_due and is_miss,
            missed_ttft=new_ttft,
            missed_tpot=new_tpot,
            completed=is_final,
            ttft_ms=ttft_ms,
            tpot_ms=tpot_ms,
        )
