"""The whole phase × event grid, and what must hold of any path through it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semipd_core.repartition import (
    SERVING,
    SWITCHING,
    TRANSITIONS,
    Event,
    IllegalTransition,
    Phase,
    advance,
    is_legal,
    markdown_table,
)

DOCUMENT = Path(__file__).parents[2] / "docs" / "repartition.md"

GRID = [pytest.param(phase, event, id=f"{event} while {phase}") for phase in Phase for event in Event]


@pytest.mark.parametrize(("phase", "event"), GRID)
def test_every_pair_leads_somewhere_or_raises(phase: Phase, event: Event) -> None:
    if is_legal(phase, event):
        assert advance(phase, event) is TRANSITIONS[phase, event]
    else:
        with pytest.raises(IllegalTransition, match=f"{event} has no place in phase {phase}"):
            advance(phase, event)


@pytest.mark.parametrize(
    ("events", "end"),
    [
        pytest.param([Event.READY], Phase.STEADY, id="a start ends steady"),
        pytest.param(
            [Event.READY, Event.WISH, Event.PREPARED, Event.EFFECTIVE, Event.RETIRED],
            Phase.STEADY,
            id="a switch ends steady",
        ),
        pytest.param(
            [Event.READY, Event.WISH, Event.REJECTED, Event.ROLLED_BACK],
            Phase.STEADY,
            id="a switch that is rejected is rolled back and ends steady",
        ),
        pytest.param(
            [Event.READY, Event.WISH, Event.PREPARED, Event.BASE_LOST, Event.READY],
            Phase.STEADY,
            id="a coordinator lost in a switch is recovered from",
        ),
        pytest.param([Event.READY, Event.LANE_LOST, Event.DRAIN], Phase.DRAINING, id="a recovery can drain"),
        pytest.param([Event.INVALID, Event.INVALID], Phase.FAILED, id="wrong input is final"),
    ],
)
def test_paths(events: list[Event], end: Phase) -> None:
    phase = Phase.STARTING
    for event in events:
        phase = advance(phase, event)
    assert phase is end


def test_an_engine_that_failed_never_leaves_that_phase() -> None:
    assert {TRANSITIONS.get((Phase.FAILED, event), Phase.FAILED) for event in Event} == {Phase.FAILED}


def test_a_wish_begins_a_switch_only_while_steady() -> None:
    assert [phase for phase in Phase if is_legal(phase, Event.WISH)] == [Phase.STEADY]


def test_the_loss_of_the_base_has_a_place_wherever_lanes_serve() -> None:
    assert all(is_legal(phase, Event.BASE_LOST) for phase in SERVING)
    assert SWITCHING < SERVING


def test_every_phase_can_be_reached_from_the_start() -> None:
    reached = {Phase.STARTING}
    for _ in Phase:
        reached |= {after for (before, _event), after in TRANSITIONS.items() if before in reached}
    assert reached == set(Phase)


@given(st.lists(st.sampled_from(Event), max_size=40))
def test_a_switch_that_has_begun_ends_steady_recovering_or_failed(events: list[Event]) -> None:
    phase = Phase.STARTING
    for event in events:
        if not is_legal(phase, event):
            continue
        after = advance(phase, event)
        if phase in SWITCHING and after not in SWITCHING:
            assert after in (Phase.STEADY, Phase.RECOVERING, Phase.FAILED)
        phase = after


def test_the_documented_table_is_the_generated_one() -> None:
    assert markdown_table() in DOCUMENT.read_text(encoding="utf-8")
