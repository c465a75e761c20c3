"""What the agent does next, for one state of the world each."""

from __future__ import annotations

from dataclasses import replace
from signal import SIGKILL, SIGTERM

import pytest
from engine_views import (
    AT_40,
    AT_80,
    DEAD,
    DECODE,
    FORKED,
    GREEN,
    NEW,
    OLD,
    PREFILL,
    STANDBY,
    lane,
    preparing,
    summary,
    swapping,
    view,
)

from semipd_agent.supervision import plan
from semipd_agent.supervision.view import EngineView, LaneStage
from semipd_core.partition import Role
from semipd_core.repartition import Event, Phase

CASES = [
    pytest.param(view(PREFILL, DECODE), (), id="a steady engine needs nothing"),
    pytest.param(
        view(memory=DEAD, coordinator=DEAD, connected=False, front_end=DEAD, phase=Phase.STARTING),
        ("start", "memory"),
        id="the memory server starts first",
    ),
    pytest.param(
        view(memory_ready=False, coordinator=DEAD, connected=False, front_end=DEAD, phase=Phase.STARTING),
        ("start", "frontend"),
        id="the front end starts while weights load",
    ),
    pytest.param(
        view(memory_ready=False, coordinator=DEAD, connected=False, phase=Phase.STARTING),
        ("Wait",),
        id="the coordinator waits for the memory server",
    ),
    pytest.param(
        view(coordinator=DEAD, connected=False, phase=Phase.STARTING),
        ("start", "coordinator"),
        id="the coordinator starts once memory is ready",
    ),
    pytest.param(
        view(connected=False, phase=Phase.STARTING),
        ("Connect",),
        id="the agent connects to a coordinator that listens",
    ),
    pytest.param(
        view(phase=Phase.STARTING), ("fork", Role.PREFILL, 80), id="lanes are forked at the shares in force"
    ),
    pytest.param(view(phase=Phase.STARTING, zygote_ready=False), (), id="no lane without a zygote"),
    pytest.param(
        view(PREFILL, lane(Role.DECODE, 100, LaneStage.FORKED), phase=Phase.STARTING),
        (),
        id="a forked lane is waited for",
    ),
    pytest.param(
        view(lane(Role.PREFILL, 80, LaneStage.FORKED, age_s=61.0), DECODE, phase=Phase.STARTING),
        ("end", "prefill-80", SIGTERM),
        id="a lane that never attaches is ended",
    ),
    pytest.param(
        view(PREFILL, DECODE, phase=Phase.STARTING),
        ("advance", Event.READY),
        id="with all lanes active the engine is steady",
    ),
    pytest.param(view(DECODE), ("advance", Event.LANE_LOST), id="a missing lane ends steadiness"),
    pytest.param(
        view(DECODE, phase=Phase.RECOVERING), ("fork", Role.PREFILL, 80), id="a missing lane is replaced"
    ),
    pytest.param(
        view(DECODE, phase=Phase.RECOVERING, lane_due={Role.PREFILL: False}),
        (),
        id="but not before its back-off is over",
    ),
    pytest.param(
        view(replace(PREFILL, is_alive=False), DECODE),
        ("ConfirmExit", "prefill-80"),
        id="the coordinator hears of an exit first",
    ),
    pytest.param(
        view(replace(PREFILL, is_alive=False), DECODE, connected=False),
        ("Connect",),
        id="an exit is not forgotten while the coordinator cannot hear of it",
    ),
    pytest.param(
        view(replace(PREFILL, stage=LaneStage.LOST), DECODE, phase=Phase.RECOVERING),
        ("end", "prefill-80", SIGTERM),
        id="a lane whose connection ended is ended",
    ),
    pytest.param(
        view(
            replace(PREFILL, stage=LaneStage.LOST, signalled=SIGTERM, signalled_age_s=6.0),
            DECODE,
            phase=Phase.RECOVERING,
        ),
        ("end", "prefill-80", SIGKILL),
        id="a lane that ignores SIGTERM is killed",
    ),
    pytest.param(
        view(PREFILL, DECODE, memory=DEAD),
        ("advance", Event.BASE_LOST),
        id="the memory server's death is noticed",
    ),
    pytest.param(
        view(PREFILL, DECODE, memory=DEAD, phase=Phase.RECOVERING),
        ("end", "coordinator", SIGTERM),
        id="the coordinator goes with its memory server",
    ),
    pytest.param(
        view(PREFILL, DECODE, coordinator=DEAD, connected=False, phase=Phase.RECOVERING),
        ("end", "prefill-80", SIGTERM),
        id="lanes go with their coordinator",
    ),
    pytest.param(
        view(replace(PREFILL, signalled=SIGTERM), coordinator=DEAD, connected=False, phase=Phase.RECOVERING),
        ("Wait",),
        id="no coordinator starts while a lane of the last one lives",
    ),
    pytest.param(view(PREFILL, DECODE, goal=AT_40), ("advance", Event.WISH), id="a wish begins a switch"),
    pytest.param(view(PREFILL, DECODE, goal=AT_80), (), id="a wish for what is in force does not"),
    pytest.param(
        view(PREFILL, DECODE, goal=AT_40, is_draining=True),
        ("advance", Event.DRAIN),
        id="a drain comes before a wish",
    ),
    pytest.param(
        preparing(PREFILL, DECODE), ("fork", Role.PREFILL, 40), id="a switch forks the lane that changes"
    ),
    pytest.param(preparing(PREFILL, DECODE, FORKED), (), id="and waits for it to attach"),
    pytest.param(
        preparing(PREFILL, DECODE, FORKED, phase_age_s=21.0),
        ("advance", Event.REJECTED),
        id="but not for ever",
    ),
    pytest.param(
        preparing(PREFILL, DECODE, replace(STANDBY, granted_percent=36)),
        ("advance", Event.REJECTED),
        id="less than requested is rejected",
    ),
    pytest.param(
        preparing(PREFILL, DECODE, rejection="it died"),
        ("advance", Event.REJECTED),
        id="a new lane's death is rejected",
    ),
    pytest.param(
        preparing(PREFILL, DECODE, STANDBY),
        ("advance", Event.PREPARED),
        id="an attached lane can be swapped in",
    ),
    pytest.param(
        preparing(DECODE, FORKED), (), id="an old lane that dies is not replaced where a new one comes"
    ),
    pytest.param(
        preparing(PREFILL, FORKED),
        ("fork", Role.DECODE, 100),
        id="a lane that the switch does not concern is",
    ),
    pytest.param(
        swapping(PREFILL, DECODE, STANDBY), ("SendSwap", "prefill-40"), id="the standby lane is swapped in"
    ),
    pytest.param(swapping(PREFILL, DECODE, replace(STANDBY, is_swap_sent=True)), (), id="once"),
    pytest.param(
        swapping(PREFILL, DECODE, replace(STANDBY, is_swap_sent=True), phase_age_s=21.0),
        ("end", "prefill-80", SIGTERM),
        id="an old lane that reaches no step boundary is ended",
    ),
    pytest.param(
        swapping(PREFILL, DECODE), ("fork", Role.PREFILL, 40), id="a new lane that dies now is made up for"
    ),
    pytest.param(
        swapping(OLD, DECODE, NEW),
        ("advance", Event.EFFECTIVE),
        id="with the new lane active the switch is effective",
    ),
    pytest.param(
        swapping(OLD, DECODE, NEW, phase=Phase.RETIRING), (), id="the old lane is given time to stop"
    ),
    pytest.param(
        swapping(OLD, DECODE, NEW, phase=Phase.RETIRING, phase_age_s=11.0),
        ("end", "prefill-80", SIGTERM),
        id="and then ended",
    ),
    pytest.param(
        swapping(DECODE, NEW, phase=Phase.RETIRING),
        ("advance", Event.RETIRED),
        id="its confirmed exit ends the switch",
    ),
    pytest.param(
        view(PREFILL, DECODE, STANDBY, phase=Phase.ROLLING_BACK, target=AT_40),
        ("end", "prefill-40", SIGTERM),
        id="a roll-back ends the new lane",
    ),
    pytest.param(
        view(PREFILL, DECODE, phase=Phase.ROLLING_BACK, target=AT_40),
        ("advance", Event.ROLLED_BACK),
        id="and is over with its exit",
    ),
    pytest.param(view(PREFILL, DECODE, **GREEN), ("SendCaps",), id="caps are sent on a new connection"),
    pytest.param(
        preparing(PREFILL, DECODE, caps=AT_80, **GREEN),
        ("advance", Event.PREPARED),
        id="caps need no new lane",
    ),
    pytest.param(swapping(PREFILL, DECODE, caps=AT_40, **GREEN), (), id="caps sent are read back"),
    pytest.param(
        swapping(replace(PREFILL, granted_percent=40), DECODE, caps=AT_40, **GREEN),
        ("advance", Event.EFFECTIVE),
        id="caps read back are effective",
    ),
    pytest.param(
        swapping(PREFILL, DECODE, caps=AT_40, phase_age_s=6.0, **GREEN),
        ("advance", Event.REJECTED),
        id="caps that do not come true are rejected",
    ),
    pytest.param(
        view(PREFILL, DECODE, error="spec.model.uri"),
        ("advance", Event.INVALID),
        id="wrong input fails the engine",
    ),
    pytest.param(
        view(PREFILL, DECODE, phase=Phase.FAILED, error="spec.model.uri"),
        ("end", "frontend", SIGTERM),
        id="which then ends, front end first",
    ),
    pytest.param(
        view(PREFILL, DECODE, is_ending=True),
        ("end", "frontend", SIGTERM),
        id="the end begins with the front end",
    ),
    pytest.param(
        view(PREFILL, DECODE, is_ending=True, front_end=DEAD),
        ("end", "coordinator", SIGTERM),
        id="goes on with the coordinator, which stops the lanes",
    ),
    pytest.param(
        view(PREFILL, is_ending=True, front_end=DEAD, coordinator=DEAD, connected=False),
        ("end", "prefill-80", SIGTERM),
        id="then lanes that did not",
    ),
    pytest.param(
        view(is_ending=True, front_end=DEAD, coordinator=DEAD, connected=False),
        ("end", "memory", SIGTERM),
        id="and the memory server last",
    ),
    pytest.param(
        view(PREFILL, DECODE, front_end=DEAD, is_draining=True, phase=Phase.DRAINING),
        (),
        id="a front end that died draining is not started again",
    ),
    pytest.param(
        view(PREFILL, phase=Phase.DRAINING, is_draining=True),
        ("fork", Role.DECODE, 100),
        id="a lane that died draining is",
    ),
    pytest.param(
        view(PREFILL, DECODE, STANDBY, phase=Phase.RECOVERING),
        ("end", "prefill-40", SIGTERM),
        id="a lane that nothing accounts for is ended",
    ),
]


@pytest.mark.parametrize(("world", "expected"), CASES)
def test_next_action(world: EngineView, expected: tuple[object, ...]) -> None:
    assert summary(plan.decide(world)) == expected
