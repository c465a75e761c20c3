"""The agent dies at each of its failpoints; init starts it again; nothing is lost and the wish comes true."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from agent_process import AgentProcess

from semipd_shell.failpoints import FAILPOINTS

pytestmark = pytest.mark.slow

STARTS = 6  # zygote, memory, front end, coordinator, prefill, decode: one entry before and one after each
START_ENTRIES = 2 * STARTS + 1  # the first line, then Starting and Started of each
SWITCH_ENTRIES = 8
JOURNAL_PLACES = ["agent.journal.before_write", "agent.journal.after_write"]
SWITCH_PLACES = [name for name in FAILPOINTS if name.startswith("agent.switch.")]
BOUNDARIES = [
    *(("agent.journal.after_write", number) for number in range(2, START_ENTRIES + 1, 2)),
    *((place, START_ENTRIES + number) for place in JOURNAL_PLACES for number in range(1, SWITCH_ENTRIES + 1)),
    *((place, 1) for place in SWITCH_PLACES),
]


def test_every_place_of_the_agent_is_tried() -> None:
    assert {place for place, _ in BOUNDARIES} == {name for name in FAILPOINTS if name.startswith("agent.")}


@pytest.mark.parametrize(
    ("place", "pass_number"), [pytest.param(*case, id=f"{case[0]}, pass {case[1]}") for case in BOUNDARIES]
)
def test_the_agent_dies_there_and_the_wish_comes_true(
    start_agent: Callable[..., AgentProcess], tmp_path: Path, place: str, pass_number: int
) -> None:
    once = tmp_path / "once"
    once.mkdir()
    environment = {"SEMIPD_FAILPOINTS": f"{place}={pass_number}", "SEMIPD_FAILPOINT_ONCE": str(once)}
    agent = start_agent(None, environment)

    def is_ready() -> bool:
        agent.keep_alive()
        return agent.get("/readyz").status_code == 200 and agent.engine().phase == "Steady"

    agent.until(is_ready, "ready")
    assert _wished(agent)

    def is_granted() -> bool:
        agent.keep_alive()
        return agent.engine().phase == "Steady" and agent.granted() == (40, 100)

    agent.until(is_granted, "the wish comes true")
    assert (once / place).exists(), "the place was not reached"
    _assert_one_of_each(agent)
    assert agent.terminate() == 0
    agent.assert_nothing_left()


def _wished(agent: AgentProcess) -> bool:
    """Until the agent has said that it took the wish: one that dies before has promised nothing."""

    def is_taken() -> bool:
        agent.keep_alive()
        return agent.wish(40).status_code == 200

    agent.until(is_taken, "wish taken")
    return True


def _assert_one_of_each(agent: AgentProcess) -> None:
    """No stray lives beside what the status shows."""
    status = agent.status()
    shown = {process.pid for process in [*status.shared, *status.engines[0].processes]}
    assert shown == set(agent.living())
    assert len(shown) == STARTS
    assert all(os.path.exists(f"/proc/{pid}") for pid in shown)
