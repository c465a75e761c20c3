"""What `advise` makes of the last decision, and the command that follows it."""

from __future__ import annotations

from typing import Any

import pytest
from seen_services import NOW, decision, view

from semipd_kubectl.reports.advise import build_advice
from semipd_kubectl.reports.values import Split

ADVICE = "the policy says (60, 100) (TPOTMissed): TPOT p90 71 of 60 ms"


def test_advice_is_followed_by_a_pin_that_replaces_no_pod() -> None:
    found = build_advice(
        view(
            decisions=(decision(NOW, (80, 100), "Advisory", ADVICE),),
            requested=(80, 100),
            partition={"mode": "Advisory"},
        )
    )
    assert (found.advised, found.reason, found.held_by) == (
        Split(prefill_percent=60, decode_percent=100),
        "TPOTMissed",
        "Advisory",
    )
    assert found.follow[0].command == (
        "kubectl patch semipdservice chat -n team-a --type merge "
        """-p '{"metadata":{"annotations":{"semipd.io/pinned-split":"60/100"}}}'"""
    )


@pytest.mark.parametrize(
    ("given", "advised", "commands"),
    [
        pytest.param({"decisions": (decision(NOW, (65, 90)),)}, "65/90", 0, id="the decision in force"),
        pytest.param(
            {"decisions": (decision(NOW, (65, 90), "Cooldown", ADVICE),)}, "60/100", 1, id="held back"
        ),
        pytest.param({"partition": {"mode": "Static"}}, None, 1, id="static has none"),
        pytest.param({"partition": {"mode": "Advisory"}}, None, 0, id="nothing decided yet"),
    ],
)
def test_what_is_advised(given: dict[str, Any], advised: str | None, commands: int) -> None:
    found = build_advice(view(**given))
    assert (None if found.advised is None else str(found.advised)) == advised
    assert len(found.follow) == commands
