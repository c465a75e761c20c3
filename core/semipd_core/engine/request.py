"""One request as the coordinator knows it: its tokens, how far they are computed and planned, and what it holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from semipd_core.messages import Sampling, Submit


class RequestPhase(StrEnum):
    WAITING = "waiting"  # holds no block
    PREFILLING = "prefilling"  # holds blocks for all of `tokens`
    DECODING = "decoding"
    FINISHED = "finished"


@dataclass(slots=True, eq=False, kw_only=True)
class Request:
    """Positions [0, computed) have their KV; steps up to position `planned` are in flight.

    A sampled token belongs to position len(tokens); it is computed by the step after the one that sampled it, so that a
    decoding request without a step in flight has computed == len(tokens) - 1.
    """

    request_id: str
    tokens: list[int]  # the prompt, then what was generated; only ever appended to
    num_prompt: int
    max_tokens: int  # generated tokens of the whole request
    arrived_ns: int
    sampling: Sampling
    stop_token_ids: frozenset[int]
    phase: RequestPhase = RequestPhase.WAITING
    queue: dict[str, Request] = field(default_factory=dict)  # where it waits for its next step
    suspect: bool = False  # was in flight when a lane was lost, and no step of it has succeeded since

    # What it holds. A residency lasts from admission to release; 0: none.
    residency: int = 0
    slot: int = -1
    blocks: list[int] = field(default_factory=list)
    computed: int = 0
    planned: int = 0
    pending: int = 0  # tokens that steps in flight will sample
    lane: int | None = None  # serial number of the lane of its last planned step
    last_epoch: int = 0

    hashes: list[bytes] = field(default_factory=list)  # of its full blocks, chained
    num_published: int = 0  # blocks of this residency known to the prefix cache
    cached_tokens: int | None = None  # prompt tokens found in the prefix cache at first admission

    @classmethod
    def from_submit(cls, submit: Submit, max_tokens: int) -> Request:
        return cls(
            request_id=submit.request_id,
            tokens=submit.prompt + submit.generated,
            num_prompt=len(submit.prompt),
            max_tokens=max_tokens,
            arrived_ns=submit.arrived_ns,
            sampling=submit.sampling,
            stop_token_ids=frozenset(submit.stop_token_ids),
        )

    @property
    def num_generated(self) -> int:
        return len(self.tokens) - self.num_prompt

    @property
    def remaining_tokens(self) -> int:
        """Tokens of the prompt (after a preemption: and of the output) that no step has been planned for."""
        return len(self.tokens) - self.planned

    @property
    def can_decode(self) -> bool:
        """Whether one more token may be sampled without overrunning max_tokens."""
        return len(self.tokens) + self.pending - self.num_prompt < self.max_tokens

    @property
    def finish(self) -> str | None:
        """The finish reason that the tokens imply, as OpenAI names it."""
        if self.num_generated and self.tokens[-1] in self.stop_token_ids:
            return "stop"
        return "length" if self.num_generated >= self.max_tokens else None

    def move_to(self, queue: dict[str, Request]) -> None:
        self.queue.pop(self.request_id, None)
        queue[self.request_id] = self
        self.queue = queue

    def rewind(self) -> None:
        """Forget the steps in flight: what they would have done is planned again, with the same tokens and blocks."""
        self.planned = self.computed
        self.pending = 0
        if self.phase is RequestPhase.DECODING and self.computed < len(self.tokens) - 1:
            self.phase = RequestPhase.PREFILLING
