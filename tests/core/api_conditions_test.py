"""A condition's transition time moves with its status alone."""

from __future__ import annotations

import pytest

from semipd_core.api.conditions import Condition, ConditionStatus, find_condition, set_condition

READY = Condition(type="Ready", status=ConditionStatus.TRUE, reason="AllReady", last_transition_time="10:00")
SLO = Condition(type="SLOMet", status=ConditionStatus.UNKNOWN, reason="Idle", last_transition_time="10:01")


@pytest.mark.parametrize(
    ("wanted", "time"),
    [
        pytest.param(
            Condition(type="Ready", status=ConditionStatus.TRUE, reason="Else", message="m"),
            "10:00",
            id="a new reason alone keeps the time",
        ),
        pytest.param(
            Condition(type="Ready", status=ConditionStatus.FALSE, reason="LaneLost"),
            "11:00",
            id="a flip moves it",
        ),
        pytest.param(
            Condition(type="Ready", status=ConditionStatus.UNKNOWN, reason="NoData"),
            "11:00",
            id="so does the loss of knowledge",
        ),
        pytest.param(
            Condition(type="Degraded", status=ConditionStatus.TRUE, reason="Xid"),
            "11:00",
            id="a new type starts now",
        ),
        pytest.param(
            Condition(
                type="Ready", status=ConditionStatus.TRUE, reason="AllReady", last_transition_time="99:99"
            ),
            "10:00",
            id="the time of the wish does not matter",
        ),
    ],
)
def test_set_condition(wanted: Condition, time: str) -> None:
    after = set_condition((READY, SLO), wanted, "11:00")
    found = find_condition(after, wanted.type)
    assert found is not None
    assert (found.status, found.reason, found.message, found.last_transition_time) == (
        wanted.status,
        wanted.reason,
        wanted.message,
        time,
    )
    assert SLO in after
    assert [c.type for c in after][:2] == ["Ready", "SLOMet"]
    assert len({c.type for c in after}) == len(after)
