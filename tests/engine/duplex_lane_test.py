"""One thread with both roles: the tokens of two lanes, decode between the layers of a prompt, and every end of a lane."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from duplex_lanes import OneLaneProcess
from engine_processes import EngineProcesses, engine_config
from local_engine import FreeTurns, Request, attach_locally, build_engine_config, build_plan

from semipd_core import messages
from semipd_core.partition import Band, Isolation, Partition, Role
from semipd_engine.lane.arbiter import ControlPage
from semipd_engine.lane.duplex import DuplexLane
from semipd_engine.lane.duplex_cpu import CpuDecode, CpuPrefill, Pace
from semipd_engine.lane.duplex_steps import Finished
from semipd_engine.memory.client import Attachment, attach
from semipd_engine.model.executor import Executor
from semipd_shell.channel import Channel

PROMPT = list(range(10, 60))
LONG = [9, 8, 7] * 60
LANES = {Role.PREFILL: "prefill-1", Role.DECODE: "decode-1"}
WAIT_S = 90.0


def whole() -> int:
    return 100


@dataclass
class Driven:
    """A duplex lane in a thread, and the coordinator's ends of its two connections."""

    lane: DuplexLane
    thread: threading.Thread
    coordinator: dict[Role, Channel]
    lane_ends: dict[Role, Channel]
    results: list[messages.StepResult] = field(default_factory=list)

    def send(self, role: Role, plan: messages.Message) -> None:
        self.coordinator[role].send(plan)

    def result(self, role: Role) -> messages.StepResult:
        assert self.coordinator[role].has_message(WAIT_S), "no result"
        message = self.coordinator[role].receive()
        assert isinstance(message, messages.StepResult)
        assert message.lane_id == LANES[role]
        return message

    def await_end(self) -> None:
        self.thread.join(WAIT_S)
        assert not self.thread.is_alive()


@pytest.fixture(scope="module")
def attachment(tmp_path_factory, tiny_llama_dir: Path) -> Attachment:
    torch.set_num_threads(1)
    return attach_locally(build_engine_config(tmp_path_factory.mktemp("engine"), f"file://{tiny_llama_dir}"))


@pytest.fixture
def executors(attachment, tmp_path, tiny_llama_dir) -> dict[Role, Executor]:
    """Over one cache, as the two roles of one engine have."""
    config = build_engine_config(tmp_path, f"file://{tiny_llama_dir}")
    return {role: Executor.build(config, attachment) for role in LANES}


class PausedPrefill:
    """Prefill that stops before its first layer until it is let on, so that a test knows what comes between."""

    def __init__(self, inner: CpuPrefill) -> None:
        self._inner = inner
        self.is_paused = threading.Event()
        self.go_on = threading.Event()

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def launch(self, plan, between):
        self.is_paused.set()
        while not self.go_on.is_set():
            between(0.01)
        self._inner.launch(plan, between)


@pytest.fixture
def driven(executors) -> Iterator[Driven]:
    prefill = CpuPrefill(executors[Role.PREFILL], Pace(whole))
    yield from drive(prefill, CpuDecode(executors[Role.DECODE], Pace(whole)))


def drive(prefill, decode) -> Iterator[Driven]:
    pairs = {role: socket.socketpair() for role in LANES}
    ends = {role: Channel(pair[1]) for role, pair in pairs.items()}
    lane = DuplexLane(LANES, dict(ends), prefill, decode)
    thread = threading.Thread(target=lane.serve, daemon=True)
    driven = Driven(lane, thread, {role: Channel(pair[0]) for role, pair in pairs.items()}, ends)
    thread.start()
    try:
        yield driven
    finally:
        lane.stop()
        for channel in driven.coordinator.values():
            channel.close()
        driven.await_end()
        for channel in ends.values():
            channel.close()


def alone(executors, tokens: list[int], count: int) -> list[int]:
    """The tokens that two lanes would give: a prompt in one piece, then one by one."""
    request = Request(7, tokens, range(100, 120))
    for _ in range(count):
        role = Role.PREFILL if request.computed == 0 else Role.DECODE
        executor = executors[role]
        (token,), _ = executor.execute(
            build_plan(request.row(len(request.tokens) - request.computed)), FreeTurns()
        )
        request.tokens.append(token)
        request._blocks_sent = 0  # the other role's table has not seen them
    return request.tokens[len(tokens) :]


def row_plan(request: Request, num_tokens: int) -> messages.StepPlan:
    return build_plan(request.row(num_tokens))


def test_a_prompt_and_its_tokens_are_those_of_two_lanes(driven, executors) -> None:
    expected = alone(executors, PROMPT, 4)
    request = Request(0, PROMPT, range(1, 9))
    for step in range(4):
        role = Role.PREFILL if step == 0 else Role.DECODE
        if step == 1:
            request._blocks_sent = 0
        plan = row_plan(request, len(request.tokens) - request.computed)
        driven.send(role, plan)
        result = driven.result(role)
        assert result.epoch == plan.epoch
        assert result.started_ns <= result.finished_ns
        assert 0 < result.compute_ns <= result.finished_ns - result.started_ns
        request.tokens += [token for token in result.tokens if token is not None]
    assert request.tokens[len(PROMPT) :] == expected


def test_decode_steps_run_inside_a_prompt_and_neither_changes_the_others_tokens(executors) -> None:
    expected, expected_long = alone(executors, PROMPT, 6), alone(executors, LONG, 1)
    prefill = PausedPrefill(CpuPrefill(executors[Role.PREFILL], Pace(whole)))
    for driven in drive(prefill, CpuDecode(executors[Role.DECODE], Pace(whole))):
        request = Request(0, PROMPT, range(1, 9))
        driven.send(Role.DECODE, row_plan(request, len(PROMPT)))
        request.tokens += driven.result(Role.DECODE).tokens
        long = Request(1, LONG, range(20, 40))
        driven.send(Role.PREFILL, row_plan(long, len(LONG)))
        assert prefill.is_paused.wait(WAIT_S)
        for _ in range(3):
            driven.send(Role.DECODE, row_plan(request, 1))
            request.tokens += driven.result(Role.DECODE).tokens
        prefill.go_on.set()
        driven.send(Role.DECODE, row_plan(request, 1))
        request.tokens += driven.result(Role.DECODE).tokens
        assert driven.result(Role.PREFILL).tokens == expected_long
        driven.send(Role.DECODE, row_plan(request, 1))
        request.tokens += driven.result(Role.DECODE).tokens
    assert request.tokens[len(PROMPT) :] == expected


def test_a_decode_step_waits_for_no_more_than_a_layer_of_a_prompt(executors) -> None:
    """Each layer asks first whether decode has something: as many chances as layers, and one for the head."""
    chances = []
    plan = row_plan(Request(0, PROMPT, range(1, 9)), len(PROMPT))
    CpuPrefill(executors[Role.PREFILL], Pace(whole)).launch(plan, chances.append)
    assert chances == [0.0] * 3, "two layers and the head"


def test_a_capped_prompt_leaves_its_pauses_to_decode(executors) -> None:
    """At half speed, each of its turns is paid for by a pause in which decode is asked again and again."""
    now_ns = [0]

    def clock_ns() -> int:
        now_ns[0] += 200_000_000  # each look takes longer than the burst that is left unpaid
        return now_ns[0]

    waits: list[float] = []

    def between(wait_s: float) -> None:
        waits.append(wait_s)
        now_ns[0] += int(wait_s * 1e9)

    plan = row_plan(Request(0, PROMPT, range(1, 9)), len(PROMPT))
    CpuPrefill(executors[Role.PREFILL], Pace(lambda: 10, clock_ns), clock_ns).launch(plan, between)
    assert any(wait > 0 for wait in waits)


def test_stop_finishes_the_prompt_in_hand(executors) -> None:
    prefill = PausedPrefill(CpuPrefill(executors[Role.PREFILL], Pace(whole)))
    for driven in drive(prefill, CpuDecode(executors[Role.DECODE], Pace(whole))):
        driven.send(Role.PREFILL, row_plan(Request(0, PROMPT, range(1, 9)), len(PROMPT)))
        assert prefill.is_paused.wait(WAIT_S)
        driven.send(Role.DECODE, messages.Stop())
        prefill.go_on.set()
        assert driven.result(Role.PREFILL).tokens[0] is not None
        driven.await_end()


class HeldPrefill:
    """On a device that finishes nothing before it is let on."""

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._plans: list[messages.StepPlan] = []
        self.is_full = threading.Event()
        self.go_on = threading.Event()

    @property
    def in_flight(self) -> int:
        return len(self._plans)

    def delay_s(self) -> float:
        return 0.001 if len(self._plans) >= self._depth else 0.0

    def launch(self, plan, between) -> None:
        between(0.0)
        assert len(self._plans) < self._depth
        self._plans.append(plan)
        if len(self._plans) == self._depth:
            self.is_full.set()

    def finished(self, *, wait: bool = False) -> list[Finished]:
        if not (wait or self.go_on.is_set()):
            return []
        plans, self._plans = self._plans, []
        return [
            Finished(plan=plan, tokens=[1], logprobs=[None], started_ns=0, finished_ns=0, compute_ns=0)
            for plan in plans
        ]


@pytest.mark.parametrize("ends", ["later", "by stop"])
def test_the_next_chunk_is_launched_before_the_first_is_done_and_both_are_told_in_order(
    executors, ends
) -> None:
    prefill = HeldPrefill(depth=2)
    plans = [row_plan(Request(slot, PROMPT, range(1, 9)), len(PROMPT)) for slot in range(2)]
    for driven in drive(prefill, CpuDecode(executors[Role.DECODE], Pace(whole))):
        for plan in plans:
            driven.send(Role.PREFILL, plan)
        assert prefill.is_full.wait(WAIT_S)
        if ends == "later":
            prefill.go_on.set()
        else:
            driven.send(Role.DECODE, messages.Stop())
        assert [driven.result(Role.PREFILL).epoch for _ in plans] == [plan.epoch for plan in plans]


@pytest.mark.parametrize("role", LANES)
def test_the_end_of_either_connection_ends_the_lane(driven, role) -> None:
    driven.coordinator[role].close()
    driven.await_end()


@pytest.mark.parametrize(
    ("error", "ends"),
    [
        pytest.param(BrokenPipeError(), True, id="the coordinator reads no more"),
        pytest.param(BlockingIOError(), True, id="the coordinator has not read for long"),
        pytest.param(OSError(28, "No space left on device"), False, id="a kernel's cache is full"),
    ],
)
def test_only_the_loss_of_the_coordinator_is_taken_for_it(error, ends) -> None:
    """Anything else ends the lane as an error, which the agent reports."""
    pairs = {role: socket.socketpair() for role in LANES}
    ours, theirs = ({role: Channel(pair[end]) for role, pair in pairs.items()} for end in (0, 1))
    lane = DuplexLane(LANES, dict(theirs), Failing(error), Failing(error))
    ours[Role.PREFILL].send(row_plan(Request(0, PROMPT, range(1, 9)), len(PROMPT)))
    with nullcontext() if ends else pytest.raises(OSError, match="No space"):
        lane.serve()
    for each in (*ours.values(), *theirs.values()):
        each.close()


class Failing:
    in_flight = 0

    def __init__(self, error: OSError) -> None:
        self._error = error

    def delay_s(self) -> float:
        return 0.0

    def launch(self, *_: object) -> None:
        raise self._error

    def finished(self, *, wait: bool = False) -> list[object]:
        return []


def test_a_signal_ends_an_idle_lane(driven) -> None:
    driven.lane.stop()
    driven.await_end()


@pytest.mark.slow
def test_steps_choose_their_caps_and_one_lane_process_gives_the_tokens_of_two(
    tmp_path, tiny_llama_dir
) -> None:
    """Caps in the control page follow the coordinator's choice, whatever the lanes behind it are."""
    prompts = [[number + 3] * (20 + 7 * number) for number in range(6)]
    outputs = []
    for name, kind in (("two", EngineProcesses), ("one", OneLaneProcess)):
        config = engine_config(
            tmp_path / name, f"file://{tiny_llama_dir}", isolation=Isolation.GREEN_CONTEXT, run_ahead=1
        )
        with kind(config, Partition(prefill_percent=50, decode_percent=50)) as engine:
            page = ControlPage(attach(config.memory_socket).control)
            assert caps(engine, page, 50, None) == (50, 50)
            caps(engine, page, 50, WIDE)
            outputs.append([each.tokens for each in engine.generate(prompts, 12)])
            report = engine.report()
            assert len(set(engine.lane_pids.values())) == (2 if name == "two" else 1)
            shares = {(each.prefill_percent, each.decode_percent) for each in report.samples}
            assert (80, 20) in shares, "a lone prompt has the most that the band allows"
            assert (20, 80) in shares, "and so has decode that is left alone"
            assert all(WIDE.holds(Partition(prefill_percent=p, decode_percent=d)) for p, d in shares)
            assert (page.cap_percent(Role.PREFILL), page.cap_percent(Role.DECODE)) == (20, 80)
            assert {lane.granted_percent for lane in report.lanes} == {50}, "steps move about what is granted"
            assert caps(engine, page, 30, None) == (30, 70)
            page.close()
    assert outputs[0] == outputs[1]


WIDE = Band(prefill_min_percent=20, prefill_max_percent=80, decode_min_percent=20, decode_max_percent=80)


def caps(engine: EngineProcesses, page: ControlPage, prefill: int, band: Band | None) -> tuple[int, int]:
    """Wish for them; what the control page says once the coordinator has taken it."""
    engine.agent.send(messages.SetCaps(prefill_percent=prefill, decode_percent=100 - prefill, band=band))
    engine.report()
    return page.cap_percent(Role.PREFILL), page.cap_percent(Role.DECODE)
