"""Ranks of a lane on GPUs: the same plans in order with each, and collectives that fit beside those of other lanes."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semipd_core import messages
from semipd_core.partition import Band, Isolation
from semipd_engine.lane.collective_limits import LANES_AT_ONCE, max_ctas, smallest_percent
from semipd_engine.lane.communicator import BACKENDS
from semipd_engine.lane.led_steps import LedSteps, follow_plans
from semipd_engine.lane.step_loop import StepOutcome

BOUNDS = Band(prefill_min_percent=20, prefill_max_percent=100, decode_min_percent=40, decode_max_percent=100)


def plan(epoch: int) -> messages.StepPlan:
    return messages.StepPlan(epoch=epoch, rows=[], request_ids=[])


@dataclass(slots=True)
class Recorder:
    """A rank's executor, and what is sent to the others, in one list of events."""

    depth: int = 2
    events: list[str] = field(default_factory=list)
    in_flight: int = 0

    def launch(self, plan: messages.StepPlan) -> RecordedStep:
        self.events.append(f"launch {plan.epoch}")
        self.in_flight += 1
        assert self.in_flight <= self.depth
        return RecordedStep(self)

    def send(self, message: messages.StepPlan | messages.Stop) -> None:
        assert isinstance(message, messages.StepPlan)
        self.events.append(f"send {message.epoch}")

    def drain(self) -> None:
        self.events.append("drain")


@dataclass(slots=True)
class RecordedStep:
    recorder: Recorder

    def is_done(self) -> bool:
        return False

    def outcome(self) -> StepOutcome:
        self.recorder.in_flight -= 1
        return StepOutcome(tokens=[], logprobs=[], compute_ns=0)


@dataclass(slots=True)
class Plans:
    """What comes from the first rank; then it is gone."""

    left: list[messages.StepPlan | messages.Stop]

    def receive(self) -> messages.AnyMessage:
        if not self.left:
            raise EOFError
        return self.left.pop(0)


def test_the_others_have_a_plan_before_the_first_rank_launches_it() -> None:
    recorder = Recorder()
    steps = LedSteps(recorder, recorder)
    for epoch in (1, 2):
        steps.launch(plan(epoch))
    steps.drain()
    assert steps.depth == 2
    assert recorder.events == ["send 1", "launch 1", "send 2", "launch 2", "drain"]


@pytest.mark.parametrize(
    "last", [pytest.param([messages.Stop()], id="told to stop"), pytest.param([], id="left alone")]
)
@pytest.mark.parametrize("depth", [1, 2])
def test_another_rank_launches_every_plan_with_no_more_in_flight_than_may_be(depth: int, last: list) -> None:
    recorder = Recorder(depth=depth)
    follow_plans(Plans([*map(plan, range(5)), *last]), recorder)
    assert recorder.events == [*(f"launch {epoch}" for epoch in range(5)), "drain"]


@pytest.mark.parametrize(("device", "backend"), [("cuda", "nccl"), ("cpu", "gloo")])
def test_the_backend_is_the_device_s(device: str, backend: str) -> None:
    assert BACKENDS[device] == backend


@pytest.mark.parametrize(
    ("isolation", "bounds", "percent"),
    [
        (Isolation.MPS, BOUNDS, 20),
        (Isolation.MPS, None, 1),
        (Isolation.NONE, BOUNDS, 100),
        (Isolation.UNIFIED, BOUNDS, 100),
    ],
)
def test_only_mps_makes_a_lane_s_share_small(isolation: Isolation, bounds: Band | None, percent: int) -> None:
    assert smallest_percent(isolation, bounds) == percent


@given(device_sms=st.integers(1, 256), percent=st.integers(1, 100))
def test_the_collectives_of_all_lanes_fit_beside_each_other_in_the_smallest_share(
    device_sms: int, percent: int
) -> None:
    ctas = max_ctas(device_sms, percent)
    assert ctas >= 1
    assert ctas == 1 or LANES_AT_ONCE * ctas <= device_sms * percent // 100


@pytest.mark.parametrize(("percent", "ctas"), [(1, 1), (10, 3), (20, 6), (100, 8)])
def test_ctas_on_an_h200(percent: int, ctas: int) -> None:
    assert max_ctas(132, percent) == ctas
