"""Which lanes are kept warm, for one state of the world each; and what a switch does with one."""

from __future__ import annotations

import math
from dataclasses import replace
from signal import SIGKILL, SIGTERM

import pytest
from engine_views import (
    AT_40,
    AT_80,
    DEAD,
    DECODE,
    FORKED,
    NEW,
    PREFILL,
    lane,
    preparing,
    summary,
    swapping,
    view,
)

from semipd_agent.supervision import actions, plan
from semipd_agent.supervision.standby import StandbyFacts
from semipd_agent.supervision.standby_rules import choose, form_of
from semipd_agent.supervision.standby_watch import StandbyWatch
from semipd_agent.supervision.view import EngineView, LaneStage, LaneView
from semipd_core.agent_config import StandbySettings
from semipd_core.partition import Isolation, Partition, Role
from semipd_core.repartition import Event, Phase, SwitchForm

GIB = 1 << 30
ON = StandbyFacts(lanes_max=2, max_age_s=900.0, free_bytes=100 * GIB)


def warm(role: Role, percent: int, age_s: float = 10.0, **changes: object) -> LaneView:
    return lane(role, percent, LaneStage.STANDBY, stage_age_s=age_s, private_bytes=2 * GIB, **changes)


def big(given: LaneView) -> LaneView:
    return replace(given, private_bytes=2 * GIB)


P80, D100, P40_NEW = big(PREFILL), big(DECODE), big(NEW)
P60 = warm(Role.PREFILL, 60)
P50 = warm(Role.PREFILL, 50, 20.0)
P40 = warm(Role.PREFILL, 40, 30.0)
D90 = warm(Role.DECODE, 90, 40.0)


def steady(*lanes: LaneView, facts: StandbyFacts = ON, **changes: object) -> EngineView:
    return view(P80, D100, *lanes, standby=facts, **changes)


KEPT = [
    pytest.param(steady(P60), {"prefill-60"}, id="a warm lane at another share is kept"),
    pytest.param(steady(P60, D90), {"prefill-60", "decode-90"}, id="of either role"),
    pytest.param(
        steady(P60, P50, P40), {"prefill-60", "prefill-50"}, id="of too many the latest to be replaced"
    ),
    pytest.param(
        steady(P60, P50, P40, facts=replace(ON, wished=(AT_80, AT_40))),
        {"prefill-40", "prefill-60"},
        id="a share wished lately comes first",
    ),
    pytest.param(
        steady(P60, facts=replace(ON, free_bytes=4 * GIB)),
        {"prefill-60"},
        id="what is free is what a switch takes",
    ),
    pytest.param(
        steady(P60, P50, facts=replace(ON, free_bytes=3 * GIB)),
        {"prefill-60"},
        id="with less free only as many as leave room for a switch",
    ),
    pytest.param(
        steady(P60, replace(P50, signalled=SIGTERM), facts=replace(ON, free_bytes=2 * GIB)),
        {"prefill-60"},
        id="memory of a lane that is about to end counts as free",
    ),
    pytest.param(
        preparing(P80, D100, P40, standby=replace(ON, lanes_max=1, free_bytes=0)),
        {"prefill-40"},
        id="the lane that a switch is about to swap in is kept whatever is free",
    ),
    pytest.param(
        preparing(P80, D100, P60, standby=replace(ON, free_bytes=2 * GIB)),
        {"prefill-60"},
        id="a switch under way needs memory for the lanes that it changes alone",
    ),
    pytest.param(
        swapping(P80, D100, P40, standby=ON), {"prefill-80"}, id="the lane about to be replaced will be kept"
    ),
    pytest.param(
        swapping(P80, D100, P40, P60, standby=replace(ON, lanes_max=1)),
        {"prefill-80"},
        id="before one that was replaced earlier",
    ),
]


@pytest.mark.parametrize(("world", "kept"), KEPT)
def test_lanes_kept(world: EngineView, kept: set[str]) -> None:
    assert choose(world).kept == kept


DROPPED = [
    pytest.param(
        steady(P60, facts=replace(ON, free_bytes=3 * GIB)),
        f"{3 * GIB} bytes are free, a switch takes {4 * GIB}",
        id="memory pressure",
    ),
    pytest.param(
        steady(P60, facts=replace(ON, free_bytes=None)),
        "nobody knows how much memory is free",
        id="free memory unknown",
    ),
    pytest.param(
        steady(replace(P60, private_bytes=0)),
        "it does not say how much memory it holds",
        id="a lane that does not say what it holds",
    ),
    pytest.param(
        steady(replace(P60, granted_percent=57)),
        "it was granted 57 % instead of 60 %",
        id="another share than asked for",
    ),
    pytest.param(
        steady(replace(P60, stage_age_s=901.0)), "nobody came back to it for 900 s", id="an aged one"
    ),
    pytest.param(
        steady(replace(P60, percent=80, granted_percent=80)),
        "another prefill lane has 80 %",
        id="one at the share in force",
    ),
    pytest.param(steady(P60, is_draining=True), "the service ends", id="a drain"),
    pytest.param(steady(P60, lanes_must_end="MPS Fault"), "MPS Fault", id="a fault of the MPS server"),
    pytest.param(steady(P60, switch_hold="Xid 94"), "Xid 94", id="no split may move"),
]


@pytest.mark.parametrize(("world", "reason"), DROPPED)
def test_a_lane_that_is_not_kept_is_ended_with_the_reason(world: EngineView, reason: str) -> None:
    assert choose(world).kept == set()
    assert choose(world).dropped == {"prefill-60": reason}


@pytest.mark.parametrize(
    "world",
    [
        pytest.param(steady(P60, facts=StandbyFacts()), id="standbys are off"),
        pytest.param(steady(P60, isolation=Isolation.GREEN_CONTEXT), id="shares move without new lanes"),
    ],
)
def test_where_there_are_no_standbys_the_choice_is_empty(world: EngineView) -> None:
    assert (choose(world).kept, choose(world).dropped) == (set(), {})


ACTIONS = [
    pytest.param(steady(P60), (), id="a kept lane needs nothing"),
    pytest.param(
        steady(P60, facts=StandbyFacts()),
        ("end", "prefill-60", SIGTERM),
        id="without the setting it is surplus",
    ),
    pytest.param(
        steady(P60, goal=Partition(prefill_percent=60, decode_percent=100)),
        ("advance", Event.WISH),
        id="a wish for its share begins a switch",
    ),
    pytest.param(
        preparing(P80, D100, P40, standby=ON), ("advance", Event.PREPARED), id="which is prepared at once"
    ),
    pytest.param(
        preparing(P80, D100, replace(P40, is_alive=False), standby=ON),
        ("ConfirmExit", "prefill-40"),
        id="a warm lane that died is forgotten",
    ),
    pytest.param(
        preparing(P80, D100, standby=ON), ("fork", Role.PREFILL, 40), id="and one is started in its place"
    ),
    pytest.param(
        preparing(P80, D100, P60, standby=replace(ON, free_bytes=GIB)),
        ("end", "prefill-60", SIGTERM),
        id="a switch to a third share takes the memory of what is warm",
    ),
    pytest.param(
        swapping(
            big(replace(PREFILL, stage=LaneStage.STANDBY)), D100, P40_NEW, phase=Phase.RETIRING, standby=ON
        ),
        ("advance", Event.RETIRED),
        id="a switch is over with the old lane standing by",
    ),
    pytest.param(
        swapping(
            big(replace(PREFILL, stage=LaneStage.STANDBY)),
            D100,
            P40_NEW,
            phase=Phase.RETIRING,
            standby=replace(ON, free_bytes=GIB),
        ),
        ("end", "prefill-80", SIGTERM),
        id="or with its end, if memory ran short meanwhile",
    ),
    pytest.param(
        view(P80, D100, P60, phase=Phase.STARTING, standby=ON),
        ("advance", Event.READY),
        id="a warm lane that was adopted is kept",
    ),
    pytest.param(
        view(P80, D100, P60, phase=Phase.STARTING, standby=replace(ON, free_bytes=GIB)),
        ("end", "prefill-60", SIGTERM),
        id="or ended",
    ),
    pytest.param(
        view(big(lane(Role.PREFILL, 60)), D100, phase=Phase.RECOVERING, standby=ON),
        ("fork", Role.PREFILL, 80),
        id="a warm lane that took over is itself replaced by one at the share in force",
    ),
    pytest.param(
        steady(replace(P60, signalled=SIGTERM, signalled_age_s=6.0)),
        ("end", "prefill-60", SIGKILL),
        id="one that ignores SIGTERM is killed",
    ),
    pytest.param(
        view(P80, D100, P60, phase=Phase.RECOVERING, coordinator=DEAD, connected=False, standby=ON),
        ("end", "prefill-80", SIGTERM),
        id="with the coordinator all lanes go",
    ),
]


@pytest.mark.parametrize(("world", "expected"), ACTIONS)
def test_next_action(world: EngineView, expected: tuple[object, ...]) -> None:
    assert summary(plan.decide(world)) == expected


@pytest.mark.parametrize(
    ("facts", "keeps_old"),
    [
        pytest.param(ON, True, id="it fits"),
        pytest.param(replace(ON, free_bytes=GIB), False, id="memory is short"),
        pytest.param(StandbyFacts(), False, id="standbys are off"),
    ],
)
def test_the_swap_says_whether_the_old_lane_stands_by(facts: StandbyFacts, keeps_old: bool) -> None:
    action = plan.decide(swapping(P80, D100, P40, standby=facts))
    assert isinstance(action, actions.SendSwap)
    assert (action.lane_id, action.keeps_old) == ("prefill-40", keeps_old)


@pytest.mark.parametrize(
    ("world", "form"),
    [
        pytest.param(preparing(P80, D100, P40), SwitchForm.WARM, id="its lane was there before"),
        pytest.param(
            preparing(P80, D100, replace(P40, is_new=True)), SwitchForm.COLD, id="it was started for it"
        ),
        pytest.param(preparing(P80, D100, FORKED), SwitchForm.COLD, id="it is not there yet"),
        pytest.param(
            preparing(P80, D100, isolation=Isolation.GREEN_CONTEXT), SwitchForm.CAPS, id="no lane is replaced"
        ),
    ],
)
def test_form_of_a_switch(world: EngineView, form: SwitchForm) -> None:
    assert form_of(world) is form


def test_what_an_ended_lane_held_is_free_until_a_look_counts_it() -> None:
    read_s = -math.inf
    watch = StandbyWatch(StandbySettings(lanes_max=2, max_age_s=900.0), lambda: GIB, lambda: read_s)
    watch.note_exit(2 * GIB)
    watch.note_exit(3 * GIB)
    assert watch.facts(()).free_bytes == 6 * GIB
    read_s = math.inf
    assert watch.facts(()).free_bytes == GIB


def test_one_shortage_drops_one_lane_though_nobody_looks_meanwhile() -> None:
    watch = StandbyWatch(StandbySettings(lanes_max=2, max_age_s=900.0), lambda: 2 * GIB, lambda: -math.inf)
    both = replace(ON, free_bytes=watch.facts(()).free_bytes)
    assert choose(steady(P60, P50, facts=both)).dropped.keys() == {"prefill-50"}
    watch.note_exit(P50.private_bytes)
    assert choose(steady(P60, facts=watch.facts(()))).dropped == {}
