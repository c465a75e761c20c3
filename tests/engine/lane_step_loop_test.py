"""A lane with steps in flight: the device is kept busy, results come in order, and nothing launched is left behind."""

from __future__ import annotations

import itertools
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semipd_core import messages
from semipd_engine.lane.step_loop import LoopState, Move, StepLoop, StepOutcome, StopOrder, decide
from semipd_shell import log
from semipd_shell.channel import Channel

LOG = log.logger("test")


def plan(epoch: int) -> messages.StepPlan:
    row = messages.Row(
        slot=0, start=epoch, tokens=[7], blocks_from=0, blocks=[], sampling=messages.Sampling()
    )
    return messages.StepPlan(epoch=epoch, rows=[row], request_ids=[f"request-{epoch}"])


@dataclass(slots=True)
class FakeExecutor:
    """A step is done once it was polled `polls` times, or waited for."""

    depth: int = 2
    polls: int = 10**9
    events: list[str] = field(default_factory=list)
    fails_at: int | None = None
    on_launch: Callable[[int], None] = lambda _epoch: None
    in_flight: int = 0

    def launch(self, plan: messages.StepPlan) -> FakeStep:
        if plan.epoch == self.fails_at:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        self.events.append(f"launch {plan.epoch}")
        self.in_flight += 1
        assert self.in_flight <= self.depth
        self.on_launch(plan.epoch)
        return FakeStep(self, plan.epoch)

    def drain(self) -> None:
        self.events.append("drain")


@dataclass(slots=True)
class FakeStep:
    executor: FakeExecutor
    epoch: int
    polled: int = 0

    def is_done(self) -> bool:
        self.polled += 1
        return self.polled > self.executor.polls

    def outcome(self) -> StepOutcome:
        self.executor.events.append(f"await {self.epoch}")
        self.executor.in_flight -= 1
        return StepOutcome(tokens=[100 + self.epoch], logprobs=[None], compute_ns=5)


@dataclass(slots=True)
class ScriptedChannel:
    """Plans come when the script says: `None` is a moment without a message, "eof" the end of the coordinator."""

    script: deque[messages.StepPlan | messages.Stop | str | None]
    executor: FakeExecutor
    results: list[messages.StepResult] = field(default_factory=list)
    is_broken: bool = False

    def has_message(self, timeout_s: float = 0.0) -> bool:
        if timeout_s == 0.0 and self.script and self.script[0] is None:
            self.script.popleft()
            return False
        if not self.script:
            self.script.append("eof")
        return self.script[0] is not None

    def receive(self) -> messages.AnyMessage:
        message = self.script.popleft()
        if message == "eof":
            raise EOFError
        assert not isinstance(message, (str, type(None)))
        return message

    def send(self, message: messages.Message) -> None:
        if self.is_broken:
            raise BrokenPipeError
        assert isinstance(message, messages.StepResult)
        self.executor.events.append(f"send {message.epoch}")
        self.results.append(message)


def run(*script: messages.StepPlan | messages.Stop | str | None, **settings: object) -> ScriptedChannel:
    executor = FakeExecutor(**settings)
    channel = ScriptedChannel(deque(script), executor)
    ticks = itertools.count(1000, 10)
    StepLoop("decode-1", channel, executor, StopOrder(), LOG, lambda: next(ticks)).run()
    return channel


FULL, ROOM = {"in_flight": 2, "depth": 2}, {"in_flight": 1, "depth": 2}
EMPTY = {"in_flight": 0, "depth": 2}


@pytest.mark.parametrize(
    ("holds", "is_stopping", "has_message", "is_oldest_done", "move"),
    [
        pytest.param(EMPTY, False, False, False, Move.LISTEN, id="idle"),
        pytest.param(EMPTY, False, True, False, Move.RECEIVE, id="a message while idle"),
        pytest.param(EMPTY, True, True, False, Move.END, id="stopping with nothing launched reads no more"),
        pytest.param(ROOM, False, False, False, Move.LISTEN, id="room for a step and none there"),
        pytest.param(ROOM, False, True, False, Move.RECEIVE, id="room for a step that is there"),
        pytest.param(ROOM, False, True, True, Move.RECEIVE, id="the device first, then the result"),
        pytest.param(ROOM, False, False, True, Move.FINISH, id="a result and no plan"),
        pytest.param(ROOM, True, True, False, Move.FINISH, id="stopping with a step launched"),
        pytest.param(FULL, False, False, False, Move.FINISH, id="full"),
        pytest.param(FULL, False, True, True, Move.FINISH, id="full, whatever else"),
        pytest.param(FULL, True, True, False, Move.FINISH, id="stopping while full"),
    ],
)
def test_what_a_lane_does_next(
    holds: dict[str, int], is_stopping: bool, has_message: bool, is_oldest_done: bool, move: Move
) -> None:
    state = LoopState(
        **holds, is_stopping=is_stopping, has_message=has_message, is_oldest_done=is_oldest_done
    )
    assert decide(state) is move


def test_the_next_plan_is_launched_before_the_last_result_is_awaited() -> None:
    channel = run(plan(1), plan(2), plan(3), messages.Stop())
    assert channel.executor.events == [
        "launch 1",
        "launch 2",
        "await 1",
        "send 1",
        "launch 3",
        "await 2",
        "send 2",
        "await 3",
        "send 3",
        "drain",
    ]


def test_without_run_ahead_each_result_is_sent_before_the_next_plan() -> None:
    channel = run(plan(1), plan(2), messages.Stop(), depth=1)
    assert channel.executor.events == [
        "launch 1",
        "await 1",
        "send 1",
        "launch 2",
        "await 2",
        "send 2",
        "drain",
    ]


def test_a_result_does_not_wait_for_a_plan_that_does_not_come() -> None:
    channel = run(plan(1), *[None] * 20, plan(2), messages.Stop(), polls=3)
    assert channel.executor.events[:4] == ["launch 1", "await 1", "send 1", "launch 2"]


def test_stop_finishes_what_is_launched_and_launches_nothing_more() -> None:
    channel = run(plan(1), messages.Stop(), plan(2))
    assert channel.executor.events == ["launch 1", "await 1", "send 1", "drain"]


def test_a_coordinator_that_is_gone_ends_the_loop_with_an_idle_device() -> None:
    channel = run(plan(1), "eof")
    assert channel.executor.events == ["launch 1", "drain"]


def test_a_result_that_nobody_takes_ends_the_loop_with_an_idle_device() -> None:
    executor = FakeExecutor()
    channel = ScriptedChannel(deque([plan(1), plan(2)]), executor, is_broken=True)
    StepLoop("decode-1", channel, executor, StopOrder(), LOG).run()
    assert executor.events == ["launch 1", "launch 2", "await 1", "drain"]


def test_a_device_that_fails_is_the_callers_business_and_is_not_waited_for() -> None:
    executor = FakeExecutor(fails_at=2)
    channel = ScriptedChannel(deque([plan(1), plan(2)]), executor)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        StepLoop("decode-1", channel, executor, StopOrder(), LOG).run()
    assert executor.events == ["launch 1"]


def test_steps_are_timed_one_after_the_other() -> None:
    results = run(plan(1), plan(2), plan(3), messages.Stop()).results
    for earlier, later in itertools.pairwise(results):
        assert earlier.started_ns < earlier.finished_ns <= later.started_ns < later.finished_ns
    assert [result.compute_ns for result in results] == [5, 5, 5]


@given(
    gaps=st.lists(st.integers(0, 4), max_size=12),
    depth=st.integers(1, 4),
    polls=st.integers(0, 5),
    is_stopped=st.booleans(),
)
def test_every_plan_before_a_stop_has_its_result_in_order(
    gaps: list[int], depth: int, polls: int, is_stopped: bool
) -> None:
    script: list[messages.StepPlan | messages.Stop | str | None] = []
    for epoch, gap in enumerate(gaps, start=1):
        script += [*[None] * gap, plan(epoch)]
    script.append(messages.Stop() if is_stopped else "eof")
    channel = run(*script, depth=depth, polls=polls)
    sent = [(result.epoch, result.tokens) for result in channel.results]
    assert sent == [(epoch, [100 + epoch]) for epoch in range(1, len(sent) + 1)]
    assert len(sent) == len(gaps) or not is_stopped
    assert channel.executor.events[-1] == "drain"


def test_sigterm_finishes_what_is_launched_over_a_real_socket() -> None:
    ours, theirs = socket.socketpair()
    coordinator = Channel(theirs)
    executor = FakeExecutor(
        on_launch=lambda epoch: signal.raise_signal(signal.SIGTERM) if epoch == 2 else None
    )
    stop = StopOrder()
    loop = StepLoop("decode-1", Channel(ours), executor, stop, LOG)
    for epoch in (1, 2, 3):
        coordinator.send(plan(epoch))
    before = signal.signal(signal.SIGTERM, stop.give)
    watchdog = threading.Timer(90, coordinator.close)
    watchdog.start()
    try:
        loop.run()
    finally:
        watchdog.cancel()
        signal.signal(signal.SIGTERM, before)
    results = [coordinator.receive() for _ in range(2)]
    assert [result.epoch for result in results] == [1, 2]
    assert not coordinator.has_message()
