"""Each process in turn is killed (-9): what is replaced, what lives on, and who hears of it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable

import pytest
from agent_process import AgentProcess

pytestmark = pytest.mark.slow

BASE = {"coordinator", "prefill", "decode"}  # all lanes go with their coordinator


def pids(agent: AgentProcess) -> dict[str, int]:
    return {**agent.pids(), "zygote": agent.status().shared[0].pid}


@pytest.mark.parametrize(
    ("victim", "replaced"),
    [
        pytest.param("memory", {"memory", *BASE}, id="memory server: all but the front end start anew"),
        pytest.param("coordinator", BASE, id="coordinator: its lanes go with it, memory and front end stay"),
        pytest.param("prefill", {"prefill"}, id="prefill lane: only it is replaced"),
        pytest.param("decode", {"decode"}, id="decode lane: only it is replaced"),
        pytest.param("frontend", {"frontend"}, id="front end: only it is replaced"),
        pytest.param("zygote", {"zygote"}, id="zygote: lanes live on"),
    ],
)
def test_a_killed_process_is_replaced_and_the_others_live(
    agent: AgentProcess, victim: str, replaced: set[str]
) -> None:
    agent.until_steady(80)
    before = pids(agent)
    os.kill(before[victim], signal.SIGKILL)

    def is_whole() -> bool:
        now = pids(agent)
        return now.keys() == before.keys() and now[victim] != before[victim]

    agent.until(is_whole, f"{victim} replaced")
    agent.until_steady(80)
    agent.until_ready()
    after = pids(agent)
    assert {name for name in after if after[name] != before[name]} == replaced


@pytest.mark.parametrize("role", ["prefill", "decode"])
def test_the_coordinator_hears_of_each_lost_lane_once_its_exit_is_confirmed(
    agent: AgentProcess, role: str
) -> None:
    agent.until_steady(80)
    before = agent.pids()[role]
    trace = agent.directory / "engine-0" / "trace.json"
    lost_before = json.loads(trace.read_text(encoding="utf-8"))["lost"] if trace.exists() else []
    os.kill(before, signal.SIGKILL)
    agent.until(lambda: agent.pids().get(role, before) != before, f"{role} lane replaced")
    agent.until_steady(80)
    seen = json.loads(trace.read_text(encoding="utf-8"))
    assert len(seen["lost"]) == len(lost_before) + 1
    assert set(seen["lost"]) <= set(seen["confirmed"])


def test_an_agent_killed_and_started_again_adopts_everything(agent: AgentProcess) -> None:
    agent.until_steady(80)
    before = pids(agent)
    agent.kill()
    agent.start()
    agent.until_ready()
    agent.until_steady(80)
    assert pids(agent) == before


@pytest.mark.parametrize("victim", ["memory", "coordinator", "prefill", "frontend", "zygote"])
def test_what_died_while_there_was_no_agent_is_replaced(agent: AgentProcess, victim: str) -> None:
    agent.until_steady(80)
    before = pids(agent)
    agent.kill()
    os.kill(before[victim], signal.SIGKILL)
    agent.start()
    agent.until_ready()
    agent.until_steady(80)
    assert pids(agent)[victim] != before[victim]


def test_a_pid_that_belongs_to_another_process_is_neither_adopted_nor_signalled(agent: AgentProcess) -> None:
    """The journal is made to name this test's own pid, with another start time."""
    agent.until_steady(80)
    before = pids(agent)
    agent.kill()
    journal = agent.directory / "journal.jsonl"
    text = journal.read_text(encoding="utf-8")
    journal.write_text(
        text.replace(f'"pid":{before["frontend"]},', f'"pid":{os.getpid()},'), encoding="utf-8"
    )
    agent.start()
    agent.until_ready()
    agent.until_steady(80)
    assert os.getpid() not in pids(agent).values()


def test_a_second_agent_on_the_same_directory_is_refused(agent: AgentProcess) -> None:
    agent.until_ready()
    second = AgentProcess.__new__(AgentProcess)
    second.directory, second.environment, second._process = agent.directory, {}, None
    second.start()
    assert second.wait() == 3
    assert agent.is_alive


def test_the_agent_is_small(agent: AgentProcess) -> None:
    agent.until_ready()
    with open(f"/proc/{agent.pid}/status", encoding="ascii") as status:
        rss_kb = next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))
    assert rss_kb < 120 * 1024


def test_several_engines_have_their_own_cores_and_a_proxy(start_agent: Callable[..., AgentProcess]) -> None:
    agent = start_agent(engines=2)
    agent.until_ready()
    configs = [
        json.loads((agent.directory / f"engine-{number}" / "engine.json").read_text()) for number in (0, 1)
    ]
    assert [process.role for process in agent.status().shared] == ["zygote", "proxy"]
    assert all(config["port"] is None for config in configs)
    if len(os.sched_getaffinity(0)) > 1:
        assert not set(configs[0]["cpus"]) & set(configs[1]["cpus"])
    assert agent.wish(40, query="?engine=engine-1").json()["engines"] == ["engine-1"]
    agent.until_steady(40, number=1)
    assert agent.granted(0) == (80, 100)
    assert agent.terminate() == 0
    agent.assert_nothing_left()


def test_a_process_that_finds_its_input_wrong_is_not_restarted(
    start_agent: Callable[..., AgentProcess],
) -> None:
    error = {"path": "spec.model.uri", "given": "file:///nowhere", "allowed": "a readable file"}
    agent = start_agent({"memory_error": error})
    agent.until(lambda: agent.engine().phase == "Failed", "failed")
    agent.until(lambda: not agent.engine().processes, "everything of the engine stopped")
    assert agent.engine().error == "spec.model.uri: got file:///nowhere, allowed: a readable file"
    assert agent.get("/readyz").status_code == 503
    assert agent.get("/healthz").status_code == 200
    assert agent.engine().processes == []
    assert agent.terminate() == 0
    agent.assert_nothing_left()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(None, "service.json: got 'No such file or directory'", id="missing"),
        pytest.param(b"{", "service.json: got 'Input data was truncated'", id="truncated"),
        pytest.param(b"{}", "Object missing required field `service`", id="a field is missing"),
    ],
)
def test_a_bad_service_file_is_said(
    start_agent: Callable[..., AgentProcess], content: bytes | None, message: str
) -> None:
    agent = start_agent()
    agent.kill()
    path = agent.directory / "service.json"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    agent.start()
    assert agent.wait() == 2
    assert message in agent.log()
