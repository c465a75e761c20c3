"""What a completed step changes: tokens, prefix cache, hand-over from prefill to decode, the end of requests."""

from __future__ import annotations

from collections.abc import Iterator

from semipd_core.engine.events import Effect, ToFrontEnd
from semipd_core.engine.lanes import Lane, PlannedRow, Step
from semipd_core.engine.request import Request, RequestPhase
from semipd_core.engine.sequences import Sequences
from semipd_core.messages import StepResult, Tokens


def fits(result: StepResult, lane: Lane) -> bool:
    """Whether the result is that of the lane's oldest step in flight, with a token for each row that wants one."""
    if not lane.in_flight or lane.in_flight[0].epoch != result.epoch:
        return False
    rows = lane.in_flight[0].rows
    return len(result.tokens) == len(result.logprobs) == len(rows) and all(
        (token is not None) or not row.samples for row, token in zip(rows, result.tokens, strict=True)
    )


def apply_step(step: Step, result: StepResult, sequences: Sequences) -> Iterator[Effect]:
    """Requests that have ended or were preempted meanwhile drop their part of the result."""
    for row, token, logprob in zip(step.rows, result.tokens, result.logprobs, strict=True):
        if row.is_current:
            message = _apply_row(row, token, logprob, sequences)
            if message is not None:
                yield ToFrontEnd(message=message)


def _apply_row(
    row: PlannedRow, token: int | None, logprob: float | None, sequences: Sequences
) -> Tokens | None:
    request = row.request
    request.computed = row.end
    message = None
    handed_over = False
    if row.samples:
        assert token is not None, "checked by `fits`"
        request.tokens.append(token)
        request.pending -= 1
        message = tokens_message(request, [token], logprob)
        handed_over = request.phase is RequestPhase.PREFILLING
    sequences.publish(request)
    if message is not None and message.finish is not None:
        sequences.finish(request)
    elif handed_over or request.suspect:
        request.suspect = False
        request.phase = RequestPhase.DECODING if handed_over else request.phase
        sequences.requeue(request)
    return message


def tokens_message(request: Request, tokens: list[int], logprob: float | None = None) -> Tokens:
    """The latest tokens of a request, and whether they end it."""
    return Tokens(
        request_id=request.request_id,
        offset=request.num_generated - len(tokens),
        tokens=tokens,
        logprobs=[logprob] if request.sampling.logprob and logprob is not None else None,
        finish=request.finish,
        cached_tokens=request.cached_tokens or 0,
    )
