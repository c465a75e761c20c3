"""One choice of one request: the tokens that the coordinator has sent, and the text made of them. No I/O, no clock."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from semipd_core import messages
from semipd_core.slo.window import RequestJudge
from semipd_engine.frontend.text_stream import TextStream


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """News of a choice. `finish` comes once, with the last text; `num_tokens` counts all tokens of the choice so far.

    `tokens` are those since the choice's last delta: several where the first ones had no text of their own.
    """

    choice: int
    text: str
    num_tokens: int
    tokens: list[int] = field(default_factory=list)
    finish: str | None = None


class TokenGapError(Exception):
    """The coordinator skipped tokens: text sent from here on would be wrong."""


@dataclass(slots=True, eq=False)
class Generation:
    """`submit` as it was sent first; `resubmission` is what to send to a coordinator that has forgotten it."""

    choice: int  # index in the response
    arrived_s: float  # of the caller's clock, like all times here
    submit: messages.Submit
    text: TextStream
    judge: RequestJudge
    streams: bool = False  # deltas go to the client as they come
    received: list[int] = field(default_factory=list)
    cached_tokens: int = 0
    finish: str | None = None
    first_token_s: float | None = None
    last_token_s: float | None = None
    num_told: int = 0  # tokens that deltas have carried

    @property
    def request_id(self) -> str:
        return self.submit.request_id

    @property
    def is_queued(self) -> bool:
        """Open, no token yet."""
        return not self.received and self.finish is None

    @property
    def has_reached_client(self) -> bool:
        """In part at least: an error from here on ends an answer in the middle."""
        return self.streams and self.num_told > 0

    @property
    def ttft_s(self) -> float | None:
        return None if self.first_token_s is None else self.first_token_s - self.arrived_s

    @property
    def e2e_s(self) -> float | None:
        return None if self.last_token_s is None else self.last_token_s - self.arrived_s

    @property
    def tpot_s(self) -> float | None:
        """(last token - first token) / (tokens - 1); None for fewer than two tokens."""
        if self.first_token_s is None or self.last_token_s is None or len(self.received) < 2:
            return None
        return (self.last_token_s - self.first_token_s) / (len(self.received) - 1)

    def resubmission(self) -> messages.Submit:
        return msgspec.structs.replace(self.submit, generated=list(self.received))

    def accept(self, message: messages.Tokens, now_s: float) -> list[Delta]:
        """Take what is new in `message`: one delta per token that has text, and one for the end.

        Raises: TokenGapError if tokens are missing before `message.offset`.
        """
        if self.finish is not None:
            return []
        num_known = len(self.received) - message.offset
        if num_known < 0:
            raise TokenGapError(
                f"{self.request_id}: {len(self.received)} tokens, then offset {message.offset}"
            )
        if not self.received:
            self.cached_tokens = message.cached_tokens
        deltas = []
        new = message.tokens[num_known:]
        for index, token in enumerate(new):
            is_last = message.finish is not None and index == len(new) - 1
            if delta := self._take(token, message.finish if is_last else None, now_s):
                deltas.append(delta)
            if self.finish is not None:
                return deltas
        if message.finish is not None:  # all of its tokens were known
            deltas.append(self._end("", message.finish))
        return deltas

    def _take(self, token: int, finish: str | None, now_s: float) -> Delta | None:
        self.received.append(token)
        self.last_token_s = now_s
        if self.first_token_s is None:
            self.first_token_s = now_s
        is_stop_token = finish == "stop" and token in self.submit.stop_token_ids
        text = "" if is_stop_token else self.text.push(token)
        if self.text.stopped:
            return self._end(text, "stop")
        if finish is not None:
            return self._end(text, finish)
        return self._delta(text, None) if text else None

    def _end(self, text: str, finish: str) -> Delta:
        if not self.text.stopped:
            text += self.text.finish()
        self.finish = "stop" if self.text.stopped else finish
        return self._delta(text, self.finish)

    def _delta(self, text: str, finish: str | None) -> Delta:
        tokens = self.received[self.num_told :]
        self.num_told = len(self.received)
        return Delta(
            choice=self.choice, text=text, num_tokens=len(self.received), tokens=tokens, finish=finish
        )
