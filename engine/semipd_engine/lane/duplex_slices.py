"""Both roles on a GPU from one thread: a prompt is launched some layers at a time, decode steps between, each on its own stream.

The executors are those of the lanes with one role (`start`, `advance`, `is_done`, `outcome`). What is launched runs on by itself,
and launching takes the thread that decode needs too: a chunk is launched as the device gets on with it, at most SLICES_AHEAD
slices ahead, so that a decode plan waits for the launch of one slice and its split may change soon.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from semipd_core import messages
from semipd_core.sm_splits import SmSplit
from semipd_engine.lane.duplex_steps import Finished

SLICE_TOKENS = 65536  # tokens times layers of one slice
SLICE_LAYERS_MAX = 4  # of a slice however short its chunk: decode is asked in between
SLICES_AHEAD = 2
POLL_S = 0.0001  # between two looks at the device


class Outcome(Protocol):
    @property
    def tokens(self) -> list[int | None]: ...

    @property
    def logprobs(self) -> list[float | None]: ...

    @property
    def compute_ns(self) -> int: ...


class SlicedStep(Protocol):
    """A step under way. `advance` only launches; the last call launches the tokens' way back too."""

    @property
    def layers_left(self) -> int: ...

    def advance(self, layers: int) -> object: ...

    def is_done(self) -> bool: ...

    def outcome(self) -> Outcome:
        """Waits for the device."""


class SlicedExecutor(Protocol):
    def start(self, plan: messages.StepPlan) -> SlicedStep: ...


class Mark(Protocol):
    """A place in a stream: whether the device has passed it."""

    def is_done(self) -> bool: ...


class Streams(Protocol):
    """One role's streams, a stream for each split."""

    def select(self, split: SmSplit | None) -> None:
        """What is launched from here on runs on the stream of `split`, after what was launched before."""

    def mark(self) -> Mark: ...


def slice_layers(num_tokens: int, layers_left: int) -> int:
    """Layers of the next slice: long chunks by the layer, others by SLICE_LAYERS_MAX.

    Source: SGLang `--enable-pdmux` (split forward of 65,536 tokens times layers); that alone cuts no chunk of the default budget
    (2,048 tokens of 32 layers).
    """
    return min(max(1, SLICE_TOKENS // max(1, num_tokens)), SLICE_LAYERS_MAX, layers_left)


class LaunchedSteps:
    """Steps of one role, that run one after the other as launched."""

    def __init__(
        self,
        executor: SlicedExecutor,
        streams: Streams,
        depth: int,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """depth: steps in flight at most."""
        self._executor = executor
        self._streams = streams
        self._depth = depth
        self._clock_ns = clock_ns
        self._launched: deque[tuple[messages.StepPlan, SlicedStep, int]] = deque()
        self._finished_ns = 0

    @property
    def in_flight(self) -> int:
        return len(self._launched)

    def delay_s(self) -> float:
        return POLL_S if len(self._launched) >= self._depth else 0.0

    def finished(self, *, wait: bool = False) -> Sequence[Finished]:
        done = []
        while self._launched and (wait or self._launched[0][1].is_done()):
            plan, step, launched_ns = self._launched.popleft()
            outcome = step.outcome()
            started_ns = max(launched_ns, self._finished_ns)
            self._finished_ns = self._clock_ns()
            done.append(_finished(plan, outcome, started_ns, self._finished_ns))
        return done

    def _start(self, plan: messages.StepPlan) -> SlicedStep:
        assert len(self._launched) < self._depth, f"{self._depth} steps are in flight"
        self._streams.select(plan.split)
        return self._executor.start(plan)


class SlicedPrefill(LaunchedSteps):
    """The next chunk is launched behind the one before, without its result: SLICES_AHEAD bounds the slices of both."""

    def __init__(
        self,
        executor: SlicedExecutor,
        streams: Streams,
        depth: int,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """depth: chunks in flight at most."""
        super().__init__(executor, streams, depth, clock_ns)
        self._marks: deque[Mark] = deque()  # of slices that the device may not have passed

    def launch(self, plan: messages.StepPlan, between: Callable[[float], None]) -> None:
        launched_ns = self._clock_ns()
        step = self._start(plan)
        num_tokens = sum(row.num_tokens for row in plan.rows)
        while step.layers_left:
            between(0.0)
            self._await_room(between)
            step.advance(slice_layers(num_tokens, step.layers_left))
            self._marks.append(self._streams.mark())
        self._launched.append((plan, step, launched_ns))

    def _await_room(self, between: Callable[[float], None]) -> None:
        while len(self._marks) >= SLICES_AHEAD:
            if self._marks[0].is_done():
                self._marks.popleft()
            else:
                between(POLL_S)


class LaunchedDecode(LaunchedSteps):
    def launch(self, plan: messages.StepPlan) -> None:
        launched_ns = self._clock_ns()
        step = self._start(plan)
        step.advance(step.layers_left)
        self._launched.append((plan, step, launched_ns))


def _finished(plan: messages.StepPlan, outcome: Outcome, started_ns: int, finished_ns: int) -> Finished:
    return Finished(
        plan=plan,
        tokens=outcome.tokens,
        logprobs=outcome.logprobs,
        started_ns=started_ns,
        finished_ns=finished_ns,
        compute_ns=outcome.compute_ns,
    )
