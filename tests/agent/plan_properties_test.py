"""What the agent never does, whatever the state of the world."""

from __future__ import annotations

from dataclasses import replace
from signal import SIGKILL, SIGTERM

from engine_views import (
    AT_40,
    AT_80,
    lane,
    summary,
    view,
)
from hypothesis import given
from hypothesis import strategies as st

from semipd_agent.supervision import actions, plan
from semipd_agent.supervision.standby import StandbyFacts
from semipd_agent.supervision.standby_rules import choose, switch_bytes
from semipd_agent.supervision.view import ChildView, EngineView, LaneStage, LaneView
from semipd_core.partition import Isolation, Role
from semipd_core.repartition import SERVING, Event, Phase, is_legal


def _children() -> st.SearchStrategy[ChildView]:
    return st.builds(
        ChildView,
        is_alive=st.booleans(),
        is_due=st.booleans(),
        signalled=st.sampled_from([None, SIGTERM, SIGKILL]),
        signalled_age_s=st.sampled_from([0.0, 10.0]),
    )


def _lanes() -> st.SearchStrategy[LaneView]:
    return st.builds(
        lane,
        st.sampled_from([Role.PREFILL, Role.DECODE]),
        st.sampled_from([40, 80, 100]),
        st.sampled_from(LaneStage),
        is_alive=st.booleans(),
        granted_percent=st.sampled_from([None, 40, 80, 100]),
        is_swap_sent=st.booleans(),
        signalled=st.sampled_from([None, SIGTERM, SIGKILL]),
        signalled_age_s=st.sampled_from([0.0, 10.0]),
        stage_age_s=st.sampled_from([0.0, 1000.0]),
        private_bytes=st.sampled_from([0, 10]),
    )


def _standby_facts() -> st.SearchStrategy[StandbyFacts]:
    return st.builds(
        StandbyFacts,
        lanes_max=st.sampled_from([0, 1, 2]),
        max_age_s=st.just(900.0),
        free_bytes=st.sampled_from([None, 0, 10, 100]),
        wished=st.sampled_from([(), (AT_40,), (AT_80, AT_40)]),
    )


@st.composite
def _worlds(draw: st.DrawFn) -> EngineView:
    phase = draw(st.sampled_from(Phase))
    is_switching = phase in (Phase.PREPARING, Phase.SWAPPING, Phase.RETIRING, Phase.ROLLING_BACK)
    coordinator = draw(_children())
    lanes = [
        replace(item, lane_id=f"lane-{number}")
        for number, item in enumerate(draw(st.lists(_lanes(), max_size=4)))
    ]
    return view(
        *lanes,
        phase=phase,
        phase_age_s=draw(st.sampled_from([0.0, 30.0])),
        isolation=draw(st.sampled_from([Isolation.MPS, Isolation.GREEN_CONTEXT])),
        partition=draw(st.sampled_from([AT_80, AT_40])),
        target=AT_40 if is_switching else None,
        goal=draw(st.sampled_from([None, AT_40, AT_80])),
        rejection=draw(st.sampled_from([None, "it died"])),
        caps=draw(st.sampled_from([None, AT_80, AT_40])),
        memory=draw(_children()),
        memory_ready=draw(st.booleans()),
        coordinator=coordinator,
        connected=coordinator.is_alive and draw(st.booleans()),
        front_end=draw(_children()),
        zygote_ready=draw(st.booleans()),
        is_draining=draw(st.booleans()),
        is_ending=draw(st.booleans()),
        standby=draw(_standby_facts()),
    )


@given(_worlds())
def test_in_any_world_the_action_is_legal_and_safe(world: EngineView) -> None:
    """No event without a place, no signal to the dead, no lane and no coordinator beside a base that is not whole."""
    match plan.decide(world):
        case actions.Advance(event=event):
            assert is_legal(world.phase, event)
        case actions.End(process=name, signal=number):
            named = {"memory": world.memory, "coordinator": world.coordinator, "frontend": world.front_end}
            child = named.get(name) or next(item for item in world.lanes if item.lane_id == name)
            assert child.is_alive
            assert number is SIGTERM or child.signalled is SIGTERM
        case actions.Fork():
            assert world.memory.is_alive
            assert world.connected
            assert world.zygote_ready
        case actions.Start(process="coordinator" | "memory"):
            assert not any(item.is_alive for item in world.lanes)
        case actions.SendSwap(lane_id=lane_id):
            swapped = next(item for item in world.lanes if item.lane_id == lane_id)
            assert swapped.is_alive
            assert not swapped.is_swap_sent
        case actions.ConfirmExit(lane_id=lane_id):
            assert not next(item for item in world.lanes if item.lane_id == lane_id).is_alive
        case _:
            pass


@given(_worlds())
def test_no_lane_that_serves_or_is_to_serve_counts_as_a_standby_to_end(world: EngineView) -> None:
    choice = choose(world)
    assert not choice.kept & choice.dropped.keys()
    for item in world.lanes:
        is_needed = world.phase is Phase.PREPARING and item.percent == AT_40.percent(item.role)
        if item == world.kept(item.role) or is_needed:
            assert item.lane_id not in choice.dropped


@given(_worlds())
def test_what_is_kept_is_within_what_is_allowed_and_leaves_room_for_a_switch(world: EngineView) -> None:
    kept = [item for item in world.lanes if item.lane_id in choose(world).kept]
    if world.phase is Phase.PREPARING or not kept:
        return
    assert len(kept) <= world.standby.lanes_max
    ending = sum(
        item.private_bytes
        for item in world.lanes
        if item.is_alive and (item.signalled is not None or item.lane_id in choose(world).dropped)
    )
    assert (world.standby.free_bytes or 0) + ending >= switch_bytes(world)


@given(_worlds())
def test_an_engine_that_ends_or_failed_starts_nothing(world: EngineView) -> None:
    if world.is_ending or world.phase is Phase.FAILED:
        assert not isinstance(
            plan.decide(world), (actions.Start, actions.Fork, actions.SendSwap, actions.Connect)
        )


@given(_worlds())
def test_a_lost_base_is_noticed_wherever_lanes_serve(world: EngineView) -> None:
    is_lost = not world.memory.is_alive or not world.coordinator.is_alive
    if (
        world.phase in SERVING
        and is_lost
        and not world.is_ending
        and all(item.is_alive for item in world.lanes)
    ):
        assert summary(plan.decide(world)) == ("advance", Event.BASE_LOST)
