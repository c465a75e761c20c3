"""The messages between an engine's processes, encoded as msgpack (`encode`, `decode`).

front end  -- Submit, Abort, GetUsage -->  coordinator  -- Tokens, Failed, News, Readiness, Usage -->  front end
agent      -- Swap, LaneExited, SetCaps, GetState -->  coordinator  -- LaneAttached, LaneLost, Swapped, State -->  agent
lane       -- LaneHello, StepResult -->    coordinator  -- StepPlan, Stop -->                     lane

Every connection starts with one Hello from the side that connects. Times are `time.monotonic_ns()`, which all processes
of one machine share. Token ids travel as lists of ints; a lane sends token ids back, never logits.
"""

from __future__ import annotations

import msgspec

from semipd_core.partition import Band, Role
from semipd_core.sm_splits import SmSplit
from semipd_core.telemetry import CoordinatorReport, EngineUsage


class Message(msgspec.Struct, frozen=True, array_like=True, tag=True, kw_only=True):
    """Base of all messages; the tag is the class name."""


class Sampling(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """How to choose a token. temperature 0 is greedy; top_k 0 and top_p 1.0 are off; keyed by (seed, position)."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    logprob: bool = False  # return the log-probability of the sampled token


# --- Hello -----------------------------------------------------------------------------------------------------


class FrontEndHello(Message, frozen=True, kw_only=True):
    pid: int


class AgentHello(Message, frozen=True, kw_only=True):
    pid: int


class LaneHello(Message, frozen=True, kw_only=True):
    """A lane that has attached and warmed up; it is on standby until it is swapped in."""

    lane_id: str
    role: Role
    pid: int
    requested_percent: int
    granted_percent: int  # read back by the lane, not copied from the wish
    splits: tuple[SmSplit, ...] = ()  # GreenContext on CUDA: those that the lane has made streams for
    private_bytes: int = (
        0  # device memory (host memory on a CPU) that its end would free; 0: it does not know
    )


# --- front end <-> coordinator ----------------------------------------------------------------------------------


class Submit(Message, frozen=True, kw_only=True):
    """A request. After a coordinator crash the front end submits it again with the tokens already sent in `generated`."""

    request_id: str
    prompt: list[int]
    max_tokens: int  # of the whole request, `generated` included
    arrived_ns: int
    sampling: Sampling
    stop_token_ids: list[int]  # ends the request, reported as finish "stop"; empty under ignore_eos
    generated: list[int] = msgspec.field(default_factory=list)


class Abort(Message, frozen=True, kw_only=True):
    """The client is gone or a stop string matched: free the blocks at the next step."""

    request_id: str


class Tokens(Message, frozen=True, kw_only=True):
    """New tokens of a request, in order. `offset` counts the tokens before these, so that a repeat is harmless.

    A stop token is included as the last token when it ends the request.
    """

    request_id: str
    offset: int
    tokens: list[int]
    logprobs: list[float] | None
    finish: str | None  # "stop", "length" or None
    cached_tokens: int  # prompt tokens found in the prefix cache


class Failed(Message, frozen=True, kw_only=True):
    """The request cannot be served; `status` is the HTTP status it becomes."""

    request_id: str
    status: int
    message: str


class News(Message, frozen=True, kw_only=True):
    """All that one event has for the front end, in order: a step of many rows is one message."""

    items: list[Tokens | Failed]


class Readiness(Message, frozen=True, kw_only=True):
    """Whether every role has an active lane; sent after the hello and whenever it changes."""

    ready: bool


class GetUsage(Message, frozen=True, kw_only=True):
    pass


class Usage(Message, frozen=True, kw_only=True):
    usage: EngineUsage


# --- coordinator <-> lane ---------------------------------------------------------------------------------------


class Row(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """One sequence's part of a step: compute `tokens` at positions `start`, `start + 1`, …

    `slot` names the lane's block-table row; `blocks` are appended to it from index `blocks_from` (0 starts it anew).
    Empty `tokens` means one token: the one this lane sampled last for the slot (run-ahead).
    `sampling` is None where no token is wanted (a prompt chunk that is not the last).
    """

    slot: int
    start: int
    tokens: list[int]
    blocks_from: int
    blocks: list[int]
    sampling: Sampling | None

    @property
    def num_tokens(self) -> int:
        return len(self.tokens) or 1


class StepPlan(Message, frozen=True, kw_only=True):
    """A batch for one lane. `epoch` counts the lane's steps from 1."""

    epoch: int
    rows: list[Row]
    request_ids: list[str]  # for the lane's log lines, one per row
    split: SmSplit | None = None  # GreenContext on CUDA: whose streams the step runs on


class StepResult(Message, frozen=True, kw_only=True):
    """One entry of `tokens` and `logprobs` per row, in row order; None where the row had no sampling."""

    lane_id: str
    epoch: int
    tokens: list[int | None]
    logprobs: list[float | None]
    started_ns: int
    finished_ns: int
    compute_ns: int  # time inside turns; the rest of finished - started was spent waiting for the arbiter


class Stop(Message, frozen=True, kw_only=True):
    """Finish the step in hand, send its result, exit 0."""


# --- agent <-> coordinator --------------------------------------------------------------------------------------


class Swap(Message, frozen=True, kw_only=True):
    """Make standby lane `lane_id` the active one of its role at the next step boundary of the active lane.

    That one is told to stop, or with `keeps_old` stands by from there on.
    """

    lane_id: str
    keeps_old: bool = False


class LaneExited(Message, frozen=True, kw_only=True):
    """The process is confirmed gone (pidfd or wait): its steps in flight can no longer write."""

    lane_id: str


class SetCaps(Message, frozen=True, kw_only=True):
    """GreenContext: the split wished for, and the band inside which each step may have another. None: no other."""

    prefill_percent: int
    decode_percent: int
    band: Band | None = None


class GetState(Message, frozen=True, kw_only=True):
    pass


class LaneAttached(Message, frozen=True, kw_only=True):
    lane_id: str
    role: Role
    pid: int
    requested_percent: int
    granted_percent: int
    private_bytes: int = 0


class LaneLost(Message, frozen=True, kw_only=True):
    """The lane's connection ended without a Stop. The agent answers with LaneExited once its exit is confirmed."""

    lane_id: str
    role: Role


class Swapped(Message, frozen=True, kw_only=True):
    """`lane_id` is active; `old_lane_id` has no step in flight: it was told to stop, or stands by."""

    lane_id: str
    old_lane_id: str | None
    is_old_kept: bool = False


class State(Message, frozen=True, kw_only=True):
    report: CoordinatorReport


AnyMessage = (
    FrontEndHello
    | AgentHello
    | LaneHello
    | Submit
    | Abort
    | Tokens
    | Failed
    | News
    | Readiness
    | GetUsage
    | Usage
    | StepPlan
    | StepResult
    | Stop
    | Swap
    | LaneExited
    | SetCaps
    | GetState
    | LaneAttached
    | LaneLost
    | Swapped
    | State
)

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[AnyMessage] = msgspec.msgpack.Decoder(AnyMessage)


def encode(message: Message) -> bytes:
    return _encoder.encode(message)


def decode(data: bytes) -> AnyMessage:
    """Raises: msgspec.ValidationError if `data` is no known message."""
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise msgspec.ValidationError(str(error)) from error
