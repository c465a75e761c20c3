"""What `explain` says of objects: what holds the loop back, and the bounds in force."""

from __future__ import annotations

from typing import Any

import pytest
from fleet_objects import service_class
from seen_services import NOW, NOW_S, condition, decision, view

from semipd_kubectl.observe.objects import PAUSE_ANNOTATION, PIN_ANNOTATION
from semipd_kubectl.reports.explain import build_explanation


@pytest.mark.parametrize(
    ("given", "kinds"),
    [
        pytest.param({"decisions": (decision(NOW, (65, 90)),)}, [], id="nothing holds it back"),
        pytest.param({"decisions": ()}, ["NoDecision"], id="no decision yet"),
        pytest.param(
            {
                "decisions": (
                    decision("2026-11-21T11:59:50Z", (65, 90), moves=True),
                    decision("2026-11-21T11:00:00Z", (80, 90)),
                )
            },
            ["Cooldown"],
            id="a move ten seconds ago, with thirty of cooldown",
        ),
        pytest.param(
            {
                "decisions": (
                    decision("2026-11-21T11:59:50Z", (65, 90)),
                    decision("2026-11-21T11:00:00Z", (65, 90)),
                )
            },
            [],
            id="a hold is no move and starts no cooldown",
        ),
        pytest.param(
            {"decisions": (decision(NOW, (65, 90), "NoData", "no fresh report"),)}, ["NoData"], id="no data"
        ),
        pytest.param({"partition": {"mode": "Static"}}, ["Static"], id="static"),
        pytest.param({"partition": {"mode": "Advisory"}}, ["Advisory"], id="advisory"),
        pytest.param(
            {
                "annotations": {PAUSE_ANNOTATION: "true", PIN_ANNOTATION: "70/60"},
                "partition": {"mode": "Static"},
            },
            ["Paused", "Pinned", "Static"],
            id="paused before pinned before static",
        ),
        pytest.param(
            {
                "decisions": (decision(NOW, (65, 90)),),
                "conditions": (condition("Degraded", "True", "PinInvalid"),),
            },
            ["PinInvalid"],
            id="degraded",
        ),
        pytest.param(
            {"decisions": (decision(NOW, (20, 90)),), "requested": (20, 90)},
            ["Bounds"],
            id="at the lower bound",
        ),
        pytest.param(
            {"decisions": (decision(NOW, (65, 100)),), "requested": (65, 100)},
            [],
            id="the whole device is no bound that somebody has set",
        ),
        pytest.param(
            {
                "decisions": (
                    decision("2026-11-21T11:50:00Z", (65, 90), moves=True),
                    decision("2026-11-21T11:00:00Z", (80, 90)),
                ),
                "cls": service_class(maxSwitchesPerHour=1),
            },
            ["MovesSpent"],
            id="the moves of its class are spent",
        ),
    ],
)
def test_what_holds_the_loop_back(given: dict[str, Any], kinds: list[str]) -> None:
    assert [hold.kind for hold in build_explanation(view(**given), None, NOW_S).holds] == kinds


def test_the_bounds_in_force_are_those_of_the_service_cut_by_its_class() -> None:
    cut = service_class(bounds={"prefillMinPercent": 30, "decodeMaxPercent": 80})
    found = build_explanation(view(cls=cut), None, NOW_S)
    assert str(found.bounds_in_force) == "prefill 30..100 %, decode 40..80 %"
    assert str(found.bounds) == "prefill 20..100 %, decode 40..100 %"
