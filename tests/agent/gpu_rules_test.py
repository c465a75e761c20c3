"""What the supervisor does while the GPU holds starts or switches, or while all that uses it must end."""

from __future__ import annotations

from signal import SIGKILL, SIGTERM

import pytest
from engine_views import (
    ALIVE,
    AT_40,
    DEAD,
    DECODE,
    FORKED,
    NEW,
    PREFILL,
    STANDBY,
    preparing,
    summary,
    swapping,
    view,
)
from hypothesis import given
from hypothesis import strategies as st

from semipd_agent.supervision import actions, plan
from semipd_agent.supervision.view import ChildView, EngineView
from semipd_core.partition import Role
from semipd_core.repartition import Event, Phase

LOST, HELD = (
    {"engine_must_end": "the GPU is lost", "start_hold": "the GPU is lost"},
    {"start_hold": "no driver"},
)
ENDING = ChildView(is_alive=True, signalled=SIGTERM)
LATE = ChildView(is_alive=True, signalled=SIGTERM, signalled_age_s=actions.KILL_AFTER_S + 1)
GONE = {
    "memory": DEAD,
    "memory_ready": False,
    "coordinator": DEAD,
    "connected": False,
    "phase": Phase.RECOVERING,
}
CASES = [
    pytest.param(
        view(PREFILL, DECODE, **LOST), ("end", "coordinator", SIGTERM), id="the coordinator plans no more"
    ),
    pytest.param(
        view(PREFILL, DECODE, coordinator=LATE, **LOST), ("end", "coordinator", SIGKILL), id="or is killed"
    ),
    pytest.param(view(PREFILL, DECODE, coordinator=ENDING, **LOST), ("Wait",), id="it is waited for"),
    pytest.param(
        view(PREFILL, DECODE, coordinator=DEAD, connected=False, **LOST),
        ("end", "prefill-80", SIGTERM),
        id="then lanes end",
    ),
    pytest.param(
        view(coordinator=DEAD, connected=False, **LOST),
        ("end", "memory", SIGTERM),
        id="then the memory that they used",
    ),
    pytest.param(
        view(**{**GONE, "phase": Phase.STEADY, **LOST}),
        ("advance", Event.BASE_LOST),
        id="then it recovers",
    ),
    pytest.param(view(**{**GONE, **LOST}), ("Wait",), id="and starts nothing while the GPU is lost"),
    pytest.param(view(**{**GONE, **HELD}), ("Wait",), id="nor without a driver"),
    pytest.param(view(**GONE), ("start", "memory"), id="the GPU is back"),
    pytest.param(
        view(**{**GONE, **HELD, "front_end": DEAD}), ("start", "frontend"), id="the front end needs no GPU"
    ),
    pytest.param(
        view(DECODE, phase=Phase.RECOVERING, **HELD),
        (),
        id="a lost lane is not replaced while starts are held",
    ),
    pytest.param(
        view(DECODE, phase=Phase.RECOVERING), ("fork", Role.PREFILL, 80), id="a lost lane is replaced"
    ),
    pytest.param(view(PREFILL, DECODE, goal=AT_40, switch_hold="Xid 250"), (), id="no switch on an ill GPU"),
    pytest.param(
        preparing(PREFILL, DECODE, STANDBY, switch_hold="Xid 250"),
        ("advance", Event.REJECTED),
        id="one that is prepared is taken back",
    ),
    pytest.param(
        preparing(PREFILL, DECODE, FORKED, switch_hold="Xid 250"),
        ("advance", Event.REJECTED),
        id="one that has begun too",
    ),
    pytest.param(
        swapping(PREFILL, DECODE, NEW, switch_hold="Xid 250"),
        summary(plan.decide(swapping(PREFILL, DECODE, NEW))),
        id="one past the swap goes on",
    ),
]


@pytest.mark.parametrize(("seen", "expected"), CASES)
def test_rules(seen: EngineView, expected: tuple[object, ...]) -> None:
    assert summary(plan.decide(seen)) == expected


@given(
    st.sampled_from(Phase),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["start_hold", "engine_must_end"]),
)
def test_nothing_that_uses_the_gpu_ever_starts_while_it_is_held(
    phase: Phase, memory: bool, coordinator: bool, lanes: bool, hold: str
) -> None:
    found = plan.decide(
        view(
            *((PREFILL, DECODE) if lanes else ()),
            phase=phase,
            memory=ALIVE if memory else DEAD,
            memory_ready=memory,
            coordinator=ALIVE if coordinator else DEAD,
            connected=coordinator,
            target=AT_40 if phase in (Phase.PREPARING, Phase.SWAPPING, Phase.RETIRING) else None,
            **{hold: "why", "switch_hold": "why"},
        )
    )
    assert not isinstance(found, actions.Fork)
    assert not (isinstance(found, actions.Start) and found.process == "memory")
