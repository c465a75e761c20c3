"""The agent of a pod against a real API server: its partition's spec is its wish, its findings the status."""

from __future__ import annotations

import http.client
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
from agent_process import AgentProcess, agent_config
from api_server import API_SERVER_IS_BUILT, api_server_with_crds
from lightkube import Client, KubeConfig
from running_service import free_port

from semipd_agent.kubernetes.partition_source import PARTITION
from semipd_core.agent_config import KubernetesSettings
from semipd_core.telemetry import EngineReport, SloTargets

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not API_SERVER_IS_BUILT, reason="the API server is not built: make cluster-build"),
]
POD = "chat-1"
NO_SLO = SloTargets(ttft_percentile=0, ttft_ms=0, tpot_percentile=0, tpot_ms=0)


class Partitions:
    """The operator's side. `close` takes the API server away."""

    def __init__(self, directory: Path) -> None:
        self._running = ExitStack()
        self.kubeconfig = self._running.enter_context(api_server_with_crds(directory))
        self._client = Client(KubeConfig.from_file(self.kubeconfig), trust_env=False)
        self._running.callback(self._client.close)

    def ask(self, prefill: int, decision_id: str, **more: object) -> None:
        """`more`: further fields of the spec."""
        manifest = {
            "apiVersion": "semipd.io/v1alpha1",
            "kind": "SemiPDPartition",
            "metadata": {"name": POD, "namespace": "team-a"},
            "spec": {
                "target": {"prefillPercent": prefill, "decodePercent": 100},
                "decisionID": decision_id,
                "reason": "Test",
                "message": "asked by a test",
                **more,
            },
        }
        self._client.apply(PARTITION(manifest), field_manager="operator", force=True)

    def status(self) -> dict[str, Any]:
        return dict(self._client.get(PARTITION, POD, namespace="team-a").get("status") or {})

    def granted(self) -> int | None:
        engines = self.status().get("engines") or [{}]
        return (engines[0].get("granted") or {}).get("prefillPercent")

    def problems(self) -> str:
        conditions = {each["type"]: each for each in self.status().get("conditions", [])}
        return str(conditions.get("Degraded", {}).get("message", ""))

    def close(self) -> None:
        self._running.close()


@pytest.fixture
def partitions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Partitions]:
    running = Partitions(tmp_path_factory.mktemp("api-server"))
    yield running
    running.close()


@pytest.fixture
def start(partitions: Partitions, start_agent: Callable[..., AgentProcess]) -> Callable[..., AgentProcess]:
    """`start(**partition settings)`: the agent of the pod."""

    def start_in_pod(**settings: object) -> AgentProcess:
        kubernetes = KubernetesSettings(namespace="team-a", name=POD, agent_port=free_port())
        environment = {"KUBECONFIG": str(partitions.kubeconfig)}
        return start_agent(environment=environment, kubernetes=kubernetes, **settings)

    return start_in_pod


@pytest.fixture
def agent(start: Callable[..., AgentProcess]) -> AgentProcess:
    return start()


def slo_of(agent: AgentProcess) -> SloTargets:
    """As the front end judges by."""
    reports = msgspec.json.decode(agent.get("/v1/windows").content, type=list[EngineReport])
    front_end = reports[0].front_end
    return front_end.slo if front_end is not None else NO_SLO


def port_of(agent: AgentProcess) -> int:
    config = msgspec.json.decode((agent.directory / "service.json").read_bytes(), type=type(agent_config()))
    assert config.kubernetes is not None
    return config.kubernetes.agent_port


def answer(agent: AgentProcess, method: str, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port_of(agent), timeout=5)
    connection.request(method, path)
    status = connection.getresponse().status
    connection.close()
    return status


def test_the_spec_is_obeyed_and_the_findings_are_reported(
    partitions: Partitions, agent: AgentProcess
) -> None:
    agent.until_ready()
    partitions.ask(60, "cluster-1")
    agent.until_steady(60)
    agent.until(lambda: partitions.granted() == 60, "the status says so")
    partitions.ask(40, "cluster-2")
    agent.until(lambda: partitions.granted() == 40, "another spec, another share")
    status = partitions.status()
    assert status["observedDecisionID"] == "cluster-2"
    assert status["engines"][0]["requested"] == status["engines"][0]["granted"]
    conditions = {each["type"]: each["status"] for each in status["engines"][0]["conditions"]}
    assert conditions == {"Ready": "True", "Switching": "False"}


def test_the_engines_start_at_the_split_that_is_asked_for_by_then(
    partitions: Partitions, start: Callable[..., AgentProcess]
) -> None:
    partitions.ask(60, "cluster-1", slo={"ttft": {"targetMilliseconds": 123}})
    agent = start()
    agent.until_ready()
    agent.until_steady(60)
    assert agent.status().switches == [], "no lane had to be replaced"
    assert slo_of(agent).ttft_ms == 123


def test_another_slo_is_judged_by_without_a_restart_also_by_a_new_front_end(
    partitions: Partitions, agent: AgentProcess
) -> None:
    agent.until_ready()
    partitions.ask(80, "cluster-1")
    agent.until_steady(80)
    before = agent.pids()
    partitions.ask(80, "cluster-1", slo={"ttft": {"targetMilliseconds": 123}}, policy="SLOFeedback")
    agent.until(lambda: slo_of(agent).ttft_ms == 123, "the front end has the new target")
    assert agent.pids() == before, "nothing restarts"
    os.kill(before["frontend"], signal.SIGKILL)
    agent.until(lambda: agent.pids() != before, "another front end")
    agent.until_ready()
    agent.until(lambda: slo_of(agent).ttft_ms == 123, "it has the new target too")


def test_without_the_api_server_the_last_wish_holds_also_over_the_agents_death(
    partitions: Partitions, agent: AgentProcess
) -> None:
    agent.until_ready()
    partitions.ask(60, "cluster-1")
    agent.until_steady(60)
    before = agent.pids()
    partitions.close()
    agent.kill()
    agent.start()
    agent.until_ready()
    agent.until_steady(60)
    wish = agent.status().wish
    assert wish is not None
    assert wish.decision_id == "cluster-1"
    assert agent.pids() == before, "no engine process has noticed"


def test_a_spec_that_cannot_be_obeyed_is_said_in_the_status(
    partitions: Partitions, start: Callable[..., AgentProcess]
) -> None:
    agent = start(isolation="None")
    agent.until_ready()
    partitions.ask(60, "cluster-1")
    agent.until(lambda: "keeps no shares apart" in partitions.problems(), "the status says why")
    assert agent.granted() == (100, 100)
    partitions.ask(100, "cluster-2")
    agent.until(lambda: partitions.problems() == "", "a spec that can be obeyed ends it")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/readyz", 200),
        ("GET", "/v1/windows", 200),
        ("GET", "/v1/status", 200),
        ("GET", "/metrics", 200),
        ("PUT", "/v1/wish", 404),
        ("POST", "/v1/drain", 404),
    ],
)
def test_the_pods_port_gives_readings_and_takes_no_orders(
    method: str, path: str, status: int, agent: AgentProcess
) -> None:
    agent.until_ready()
    assert answer(agent, method, path) == status


def test_an_agent_that_starts_again_keeps_the_time_of_a_condition_that_holds(
    partitions: Partitions, agent: AgentProcess
) -> None:
    partitions.ask(80, "cluster-1")
    agent.until_ready()
    agent.until(lambda: partitions.granted() == 80, "the status is written")
    before = partitions.status()
    agent.kill()
    time.sleep(1.0)  # a time has no fraction of a second
    agent.start()
    agent.until(
        lambda: partitions.status()["lastHeartbeatTime"] != before["lastHeartbeatTime"], "written again"
    )
    assert partitions.status()["conditions"] == before["conditions"]
