"""Wishes and what becomes of them, over real processes."""

from __future__ import annotations

import os
from collections.abc import Callable

import msgspec
import pytest
from agent_process import AgentProcess

pytestmark = pytest.mark.slow


def test_a_wish_replaces_only_the_lane_whose_share_changes(agent: AgentProcess) -> None:
    agent.wish(80)
    agent.until_steady(80)
    before = agent.pids()
    agent.wish(40, decisionId="forty", reason="TPOTMissed", message="p90 300 of 250 ms")
    agent.until_steady(40)
    after = agent.pids()
    assert {role for role in after if after[role] != before[role]} == {"prefill"}
    switch = agent.engine().switch
    assert switch is not None
    assert (switch.decision_id, switch.outcome, switch.reason) == ("forty", "Done", "TPOTMissed")
    assert (switch.from_partition.prefill_percent, switch.to_partition.prefill_percent) == (80, 40)
    assert switch.seconds is not None
    assert agent.status().switches[-1] == switch


def test_a_wish_for_both_replaces_both(agent: AgentProcess) -> None:
    before = agent.pids()
    agent.wish(55, 65)
    agent.until_steady(55, 65)
    after = agent.pids()
    assert {role for role in after if after[role] != before[role]} == {"prefill", "decode"}


def test_the_latest_of_many_wishes_wins(agent: AgentProcess) -> None:
    for percent in range(20, 60, 5):
        agent.wish(percent)
    agent.until_steady(55)
    assert agent.engine().requested == agent.engine().granted


def test_a_wish_for_the_present_shares_switches_nothing(agent: AgentProcess) -> None:
    agent.wish(80)
    agent.until_steady(80)
    switches = len(agent.status().switches)
    assert agent.wish(80, decisionId="again").status_code == 200
    agent.until_steady(80)
    assert len(agent.status().switches) == switches


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        pytest.param("lane_exits_at_percent", "exited before it was swapped in", id="the new lane dies"),
        pytest.param("lane_grants_less_at_percent", "was granted 32 % instead of 33 %", id="less is granted"),
    ],
)
def test_a_switch_that_cannot_be_prepared_is_rolled_back_with_the_reason(
    agent: AgentProcess, fault: str, message: str
) -> None:
    agent.wish(80)
    agent.until_steady(80)
    before = agent.pids()
    agent.set_faults(**{fault: 33})
    agent.wish(33, decisionId=fault)

    def is_refused() -> bool:
        switch = agent.engine().switch
        return switch is not None and (switch.decision_id, switch.outcome) == (fault, "RolledBack")

    agent.until(is_refused, "refused")
    agent.set_faults()
    agent.until_steady(80)
    switch = agent.engine().switch
    assert switch is not None
    assert message in switch.message
    assert agent.pids() == before
    assert agent.engine().requested.prefill_percent == 33  # a wish is not a fact


def test_a_lane_that_never_attaches_is_killed_at_its_deadline(agent: AgentProcess) -> None:
    agent.wish(80)
    agent.until_steady(80)
    before = set(agent.living())
    agent.set_faults(lane_hangs_at_percent=34)
    agent.wish(34, decisionId="late")
    agent.until(lambda: len(agent.living()) == len(before) + 1, "the new lane is forked")
    agent.until(lambda: "late" in [switch.decision_id for switch in agent.status().switches], "refused", 40)
    agent.set_faults()
    agent.until_steady(80)
    assert "no lane attached within 20 s" in agent.status().switches[-1].message
    assert set(agent.living()) == before


@pytest.mark.parametrize(
    ("body", "path", "allowed"),
    [
        pytest.param(
            {"target": {"prefillPercent": 0, "decodePercent": 100}}, "target.prefillPercent", "1..100", id="0"
        ),
        pytest.param({"shares": 1}, "shares", "target", id="unknown key"),
    ],
)
def test_a_bad_wish_is_answered_with_field_value_and_what_is_allowed(
    agent: AgentProcess, body: dict[str, object], path: str, allowed: str
) -> None:
    answer = agent.ask("PUT", "/v1/wish", {"decisionId": "bad", **body})
    assert answer.status_code == 400
    assert answer.json()["path"] == path
    assert allowed in answer.json()["allowed"]


def test_a_wish_for_an_unknown_engine_names_the_known_ones(agent: AgentProcess) -> None:
    answer = agent.wish(40, query="?engine=engine-9")
    assert (answer.status_code, answer.json()) == (
        400,
        {"path": "engine", "given": "engine-9", "allowed": "one of engine-0"},
    )


def test_a_wish_by_file_is_obeyed_and_a_bad_one_is_said_while_the_last_holds(agent: AgentProcess) -> None:
    agent.wish(80)
    agent.until_steady(80)
    path = agent.directory / "wish.json"
    wish = {"target": {"prefillPercent": 70, "decodePercent": 100}, "decisionId": "file"}
    path.write_bytes(msgspec.json.encode(wish))
    agent.until_steady(70)
    path.write_bytes(msgspec.json.encode({**wish, "target": {"prefillPercent": 700, "decodePercent": 100}}))
    agent.until(lambda: agent.status().problems, "the bad file is said")
    assert agent.status().problems == [
        "wish.json: target.prefillPercent: got 700, allowed: an integer in 1..100"
    ]
    assert agent.granted() == (70, 100)
    path.unlink()
    agent.until(lambda: not agent.status().problems, "without the file nothing is wrong")


def test_shares_survive_the_agent(agent: AgentProcess) -> None:
    agent.wish(45)
    agent.until_steady(45)
    switches = agent.status().switches
    agent.kill()
    agent.start()
    agent.until_ready()
    agent.until_steady(45)
    assert agent.status().switches == switches
    wish = agent.status().wish
    assert wish is not None
    assert wish.target.prefill_percent == 45


def test_a_pinned_wish_gives_way_to_a_pinned_one_or_one_that_releases_it(
    start_agent: Callable[..., AgentProcess],
) -> None:
    """The cluster loop reads, decides, and puts: what somebody pinned in between must stay."""
    agent = start_agent(engines=2)
    agent.until_ready()
    assert agent.wish(60, decisionId="by-hand", pinned=True).status_code == 200
    for query in ("", "?engine=engine-1"):
        refused = agent.wish(80, query=query, decisionId="cluster-initial")
        assert refused.status_code == 409
        assert "is pinned to (60, 100)" in refused.json()["allowed"]
        assert "releases 'by-hand'" in refused.json()["allowed"]
    assert agent.wish(80, decisionId="cluster-2", releases="somebody-else").status_code == 409
    agent.until(lambda: [agent.granted(0), agent.granted(1)] == [(60, 100)] * 2, "the pinned split runs")
    assert agent.wish(40, decisionId="by-hand-2", pinned=True).status_code == 200
    assert agent.wish(80, decisionId="released", releases="by-hand-2").status_code == 200
    assert agent.wish(60, decisionId="cluster-3").status_code == 200


def test_green_contexts_move_without_a_new_process(start_agent: Callable[..., AgentProcess]) -> None:
    agent = start_agent(isolation="GreenContext", initial_prefill_percent=60, initial_decode_percent=40)
    agent.until_ready()
    agent.until_steady(60, 40)
    before = agent.pids()
    agent.wish(30, 70)
    agent.until_steady(30, 70)
    assert agent.pids() == before
    assert agent.status().switches[-1].outcome == "Done"
    lanes = [process for process in agent.status().engines[0].processes if process.requested_percent]
    shown = {lane.role: (lane.requested_percent, lane.granted_percent) for lane in lanes}
    assert shown == {"prefill": (30, 30), "decode": (70, 70)}, "not the shares that they were forked with"


def test_caps_that_do_not_come_true_are_rolled_back(start_agent: Callable[..., AgentProcess]) -> None:
    agent = start_agent({"caps_ignored": True}, isolation="GreenContext", initial_decode_percent=20)
    agent.until_ready()
    agent.wish(30, 70)
    agent.until(lambda: agent.status().switches, "the switch ended")
    assert agent.status().switches[-1].outcome == "RolledBack"
    assert agent.status().switches[-1].message == "the lanes do not report (30, 70)"


@pytest.mark.parametrize(("isolation", "roles"), [("None", {"prefill", "decode"}), ("Unified", {"mixed"})])
def test_isolations_without_shares_refuse_wishes(
    start_agent: Callable[..., AgentProcess], isolation: str, roles: set[str]
) -> None:
    agent = start_agent(isolation=isolation)
    agent.until_ready()
    agent.until_steady(100, 100)
    assert roles == agent.pids().keys() - {"memory", "coordinator", "frontend"}
    answer = agent.wish(40)
    assert answer.status_code == 409
    assert f"isolation {isolation} keeps no shares apart" in answer.json()["allowed"]
    assert os.path.exists(agent.directory / "agent.sock")
