"""One lane process with both roles under the agent: started once, signalled once, ended and adopted as one."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest
from agent_process import AgentProcess, agent_config
from engine_views import DECODE, GREEN, PREFILL, view

from semipd_agent import configure
from semipd_agent.run_directory import RunDirectory
from semipd_agent.supervision import actions, plan
from semipd_agent.supervision.lane import Lane
from semipd_core.node.loop import NodeConfig, step_band
from semipd_core.partition import Band, Isolation, Partition, Role, Wish
from semipd_core.telemetry import SloTargets

AT = Partition(prefill_percent=80, decode_percent=20)
BAND = Band(prefill_min_percent=60, prefill_max_percent=80, decode_min_percent=20, decode_max_percent=40)


# --- the band on its way to the coordinator -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("known", "sent"),
    [
        pytest.param({"caps": None}, (AT, BAND), id="nothing is known on this connection"),
        pytest.param({"caps": AT, "caps_band": None}, (AT, BAND), id="the band is new"),
        pytest.param({"caps": AT, "caps_band": BAND, "band": None}, (AT, None), id="a pin has taken it away"),
        pytest.param({"caps": AT, "caps_band": BAND}, None, id="all is known"),
    ],
)
def test_the_coordinator_hears_of_caps_and_band_together(known, sent):
    settings = {**GREEN, "partition": AT, "band": BAND, **known}
    action = plan.decide(view(PREFILL, DECODE, **settings))
    said = (action.partition, action.band) if isinstance(action, actions.SendCaps) else None
    assert said == sent


WISH = Wish(target=AT, band=BAND, decision_id="d", reason="", message="")
PINNED = Wish(target=AT, band=BAND, decision_id="d", reason="", message="", pinned=True)
ALONE = Wish(target=AT, band=Band.only(AT), decision_id="d", reason="", message="")


@pytest.mark.parametrize(
    ("changes", "wish", "band"),
    [
        pytest.param({}, WISH, BAND, id="steps choose inside the band"),
        pytest.param({}, PINNED, None, id="not under a pin"),
        pytest.param({}, ALONE, None, id="not without a band"),
        pytest.param({"mode": "Advisory"}, WISH, None, id="not where only people move it"),
        pytest.param({"policy": "Static"}, WISH, None, id="not under a static policy"),
        pytest.param({"isolation": Isolation.MPS}, WISH, None, id="not where a change starts processes"),
    ],
)
def test_steps_choose_only_where_the_node_may_move_and_a_move_is_free(changes, wish, band):
    settings = {"mode": "Auto", "policy": "ModelPredictive", "isolation": Isolation.GREEN_CONTEXT, **changes}
    slo = SloTargets(ttft_percentile=90, ttft_ms=400, tpot_percentile=90, tpot_ms=60)
    assert step_band(NodeConfig(initial=AT, slo=slo, **settings), wish) == band


# --- the process ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "isolation", "is_duplex"),
    [
        ("CUDA", Isolation.GREEN_CONTEXT, True),
        ("CUDA", Isolation.MPS, False),
        ("CPU", Isolation.GREEN_CONTEXT, False),
    ],
)
def test_one_process_has_both_roles_only_for_green_contexts_on_a_gpu(tmp_path, device, isolation, is_duplex):
    config = agent_config(device=device, isolation=isolation, prefill_min_percent=30)
    engine = configure.build_engine_config(config, "engine-0", [0], RunDirectory(tmp_path))
    assert engine.duplex_lane is is_duplex
    assert engine.bounds is not None
    assert engine.bounds.prefill_min_percent == 30


class FakeProcess:
    pid = 7
    is_alive = True

    def __init__(self) -> None:
        self.signals: list[signal.Signals] = []

    def send_signal(self, number: signal.Signals) -> None:
        self.signals.append(number)


def test_a_signal_to_one_role_is_known_of_both_and_sent_once():
    process = FakeProcess()
    lanes = [Lane(f"{role}-1", f"engine-0/{role}-1", role, 50) for role in (Role.PREFILL, Role.DECODE)]
    for lane, twin in (lanes, lanes[::-1]):
        lane.process, lane.twin = process, twin  # type: ignore[assignment]
    lanes[0].send_signal(signal.SIGTERM)
    assert process.signals == [signal.SIGTERM]
    assert [lane.view().is_usable for lane in lanes] == [False, False]


SETTINGS = {
    "device": "CUDA",
    "isolation": "GreenContext",
    "initial_prefill_percent": 60,
    "initial_decode_percent": 40,
}


@pytest.mark.slow
def test_both_roles_start_die_and_come_back_as_one_process(start_agent: Callable[..., AgentProcess]) -> None:
    agent = start_agent(None, {"FAKE_NVML": "nvml.json"}, **SETTINGS)
    agent.until_ready()
    agent.until_steady(60, 40)
    agent.until(lambda: _one_process(agent), "one process for both roles")
    pids = agent.pids()
    os.kill(pids["decode"], signal.SIGKILL)
    agent.until(lambda: _one_process(agent) not in (None, pids["decode"]), "a new process")
    agent.until_steady(60, 40)
    assert _one_process(agent) is not None
    assert agent.status().problems == []


@pytest.mark.slow
def test_an_agent_adopts_it_as_one_and_moves_it_without_a_new_process(
    start_agent: Callable[..., AgentProcess],
) -> None:
    agent = start_agent(None, {"FAKE_NVML": "nvml.json"}, **SETTINGS)
    agent.until_ready()
    agent.until_steady(60, 40)
    agent.until(lambda: _one_process(agent), "one process for both roles")
    before = agent.pids()
    agent.kill()
    agent.start()
    agent.until_steady(60, 40)
    assert agent.pids() == before
    agent.wish(30, 70)
    agent.until_steady(30, 70)
    assert agent.pids() == before
    os.kill(before["prefill"], signal.SIGTERM)
    agent.until(lambda: _one_process(agent) not in (None, before["prefill"]), "a new process")


def _one_process(agent: AgentProcess) -> int | None:
    """The process of both roles, by one look."""
    pids = agent.pids()
    return pids.get("prefill") if pids.get("prefill") == pids.get("decode") else None
