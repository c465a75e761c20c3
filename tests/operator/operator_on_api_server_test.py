"""The operator against a real API server: what it makes, keeps, and leaves alone."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from api_server import API_SERVER_IS_BUILT
from installed import OPERATOR_NAMESPACE, operators_account
from lightkube import AsyncClient, KubeConfig
from operator_process import NAMESPACE, Agents, Cluster, OperatorProcess, service_manifest
from running_service import free_port
from settled_service import CHILDREN

from semipd_core.slo import histogram
from semipd_core.telemetry import EngineReport, FrontEndReport, SloTargets, WindowSlot
from semipd_operator.apply.applier import Applier

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not API_SERVER_IS_BUILT, reason="the API server is not built: make cluster-build"),
]
API_SERVER_CIDRS = ("10.0.0.0/28", "fd00::/64")
SETTINGS = {"namespace": OPERATOR_NAMESPACE, "api_server_cidrs": ",".join(API_SERVER_CIDRS)}


@pytest.fixture(scope="module")
def account(kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kubeconfig of the operator's own account, with the roles of the manifests and no more."""
    return operators_account(kubeconfig, tmp_path_factory.mktemp("account") / "kubeconfig")


@pytest.fixture(scope="module")
def operator(
    account: Path, agents: Agents, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OperatorProcess]:
    directory = tmp_path_factory.mktemp("operator")
    with OperatorProcess(account, directory, agents.port, free_port(), **SETTINGS) as running:
        yield running


def deploy(cluster: Cluster, name: str, **spec: Any) -> None:
    """A service with one pod that is ready and granted what it is asked for."""
    cluster.apply(service_manifest(name, **spec))
    cluster.wait(lambda: cluster.get("Deployment", name), "the Deployment is there")
    cluster.add_pod(name, f"{name}-1")
    cluster.wait(lambda: cluster.get("SemiPDPartition", f"{name}-1"), "the pod has its partition")
    cluster.report_partition(f"{name}-1")
    cluster.report_workload("Deployment", name, 1)
    cluster.wait(
        lambda: cluster.conditions(name).get("Ready") == ("True", "AllReady"), "the service is ready"
    )


def test_a_service_becomes_its_children_and_is_ready_once_its_pods_are(
    cluster: Cluster, operator: OperatorProcess
) -> None:
    cluster.apply(service_manifest("first", replicas=1))
    for kind in CHILDREN:
        cluster.wait(lambda kind=kind: cluster.get(kind, "first"), f"the {kind} is there")
    cluster.wait(
        lambda: cluster.conditions("first").get("Ready") == ("False", "NotReady"),
        "it says that no pod is ready",
    )
    cluster.add_pod("first", "first-1")
    partition = cluster.wait(lambda: cluster.get("SemiPDPartition", "first-1"), "the pod has its partition")
    assert partition["spec"]["target"] == {"prefillPercent": 80, "decodePercent": 100}
    cluster.report_workload("Deployment", "first", 1)
    cluster.wait(
        lambda: cluster.conditions("first").get("Ready") == ("False", "NotReported"),
        "the agent has not reported",
    )
    cluster.report_partition("first-1")
    cluster.wait(
        lambda: cluster.conditions("first").get("Ready") == ("True", "AllReady"), "the service is ready"
    )
    status = cluster.get("SemiPDService", "first")["status"]
    assert status["granted"] == {"prefillPercent": 80, "decodePercent": 100}
    assert (status["replicas"], status["readyReplicas"]) == (1, 1)
    assert (status["mode"], status["placement"]) == ("Auto", "Replicas")
    assert "finalizers" not in cluster.get("SemiPDService", "first")["metadata"]


def test_replicas_are_seeded_once_and_are_then_anybodys(cluster: Cluster, operator: OperatorProcess) -> None:
    cluster.apply(service_manifest("seeded"))
    cluster.wait(
        lambda: (cluster.get("SemiPDService", "seeded") or {})["spec"].get("replicas") == 1, "one replica"
    )
    cluster.scale("seeded", 3)
    cluster.wait(
        lambda: cluster.get("Deployment", "seeded")["spec"].get("replicas") == 3, "the Deployment follows"
    )


async def test_a_seed_that_comes_late_does_not_undo_a_scale(kubeconfig: Path, cluster: Cluster) -> None:
    cluster.apply(service_manifest("late"))
    version = cluster.get("SemiPDService", "late")["metadata"]["resourceVersion"]
    cluster.apply(service_manifest("late", replicas=3))
    client = AsyncClient(KubeConfig.from_file(kubeconfig), trust_env=False)
    await Applier(client, lambda: True).seed_replicas("late", NAMESPACE, version, 1)
    await client.aclose()
    assert cluster.get("SemiPDService", "late")["spec"]["replicas"] == 3


def test_the_agents_port_is_for_the_api_servers_of_the_operators_setting(
    cluster: Cluster, operator: OperatorProcess
) -> None:
    cluster.apply(service_manifest("walled", replicas=1))
    policy = cluster.wait(lambda: cluster.get("NetworkPolicy", "walled"), "the NetworkPolicy is there")
    _, agent = policy["spec"]["ingress"]
    blocks = [peer["ipBlock"] for peer in agent["from"] if "ipBlock" in peer]
    assert [block["cidr"] for block in blocks] == list(API_SERVER_CIDRS)


@pytest.mark.parametrize("kind", ["Service", "Role", "Deployment", "PodDisruptionBudget"])
def test_a_child_that_is_deleted_comes_back(kind: str, cluster: Cluster, operator: OperatorProcess) -> None:
    name = f"lost-{kind.lower()}"
    cluster.apply(service_manifest(name, replicas=1))
    before = cluster.wait(lambda: cluster.get(kind, name), f"the {kind} is there")["metadata"]["uid"]
    cluster.delete(kind, name)
    cluster.wait(
        lambda: (cluster.get(kind, name) or {"metadata": {"uid": before}})["metadata"]["uid"] != before,
        f"another {kind} is there",
    )


def test_a_field_that_another_manager_owns_is_named_and_not_fought_over(
    cluster: Cluster, operator: OperatorProcess
) -> None:
    cluster.apply(service_manifest("contested", replicas=1))
    cluster.wait(lambda: cluster.get("Deployment", "contested"), "the Deployment is there")
    theirs = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "contested", "namespace": "team-a"},
        "spec": {"replicas": 5},
    }
    cluster.apply(theirs, "somebody")
    cluster.wait(
        lambda: cluster.conditions("contested").get("Degraded") == ("True", "FieldOwned"),
        "a condition names it",
    )
    message = next(
        each["message"]
        for each in cluster.get("SemiPDService", "contested")["status"]["conditions"]
        if each["type"] == "Degraded"
    )
    assert "somebody" in message
    assert ".spec.replicas" in message
    time.sleep(2)
    assert cluster.get("Deployment", "contested")["spec"]["replicas"] == 5


def test_a_class_refuses_and_lets_go_again(cluster: Cluster, operator: OperatorProcess) -> None:
    cls = {
        "apiVersion": "semipd.io/v1alpha1",
        "kind": "SemiPDClass",
        "metadata": {"name": "strict"},
        "spec": {"device": "CPU", "allowedIsolations": ["MPS"]},
    }
    cluster.apply(cls)
    spec = {"replicas": 1, "classRef": {"name": "strict"}, "partition": {"isolation": "Unified"}}
    cluster.apply(service_manifest("bound", **spec))
    cluster.wait(
        lambda: cluster.conditions("bound").get("Ready") == ("False", "ClassRefuses"), "the class refuses it"
    )
    assert cluster.get("Deployment", "bound") is None
    cluster.apply({**cls, "spec": {"device": "CPU", "allowedIsolations": ["MPS", "Unified"]}})
    cluster.wait(lambda: cluster.get("Deployment", "bound"), "a change of the class reaches its services")


def slow_tokens(now_s: float) -> EngineReport:
    """Two minutes of requests that miss TPOT at (80, 100)."""
    start = int(now_s) // 2 * 2
    slots = [
        WindowSlot(
            start_s=start - 2 * number,
            arrived=4,
            completed=4,
            attained=0,
            missed=4,
            missed_tpot=4,
            output_tokens=200,
            prompt_tokens=400,
            ttft_ms={histogram.bucket_of(100.0): 4},
            tpot_ms={histogram.bucket_of(120.0): 4},
        )
        for number in range(1, 20)
    ]
    slo = SloTargets(ttft_percentile=90, ttft_ms=400, tpot_percentile=90, tpot_ms=60)
    front_end = FrontEndReport(
        at_s=now_s, ready=True, slo=slo, open_requests=4, queued_requests=0, slots=slots
    )
    return EngineReport(
        engine_id="engine-0",
        at_s=now_s,
        phase="Steady",
        requested=(80, 100),
        granted=(80, 100),
        front_end=front_end,
        coordinator=None,
    )


def test_a_missed_slo_moves_the_split_of_every_pod(
    cluster: Cluster, operator: OperatorProcess, agents: Agents
) -> None:
    deploy(cluster, "moved", replicas=1, partition={"policy": "SLOFeedback"})
    cluster.add_pod("moved", "moved-2")
    cluster.wait(lambda: cluster.get("SemiPDPartition", "moved-2"), "the new pod has its partition")

    def moved() -> bool:
        agents.reports = [slow_tokens(time.time())]
        for name in ("moved-1", "moved-2"):
            cluster.report_partition(name)  # a canary waits for it
        targets = [cluster.get("SemiPDPartition", name)["spec"]["target"] for name in ("moved-1", "moved-2")]
        return targets[0] == targets[1] and targets[0]["prefillPercent"] < 80

    try:
        cluster.wait(moved, "the split moves towards decode", timeout_s=60)
    finally:
        agents.reports = []
    decisions = cluster.wait(
        lambda: cluster.get("SemiPDService", "moved")["status"].get("decisions"), "the decision is recorded"
    )
    assert any(each["reason"] == "TPOTMissed" for each in decisions), decisions
    assert cluster.conditions("moved")["SLOMet"][0] in ("False", "Unknown")


def test_an_operator_that_is_killed_and_comes_back_writes_nothing(
    account: Path, cluster: Cluster, operator: OperatorProcess, agents: Agents, tmp_path: Path
) -> None:
    deploy(cluster, "quiet", replicas=1)
    names = [
        ("SemiPDService", "quiet"),
        ("SemiPDPartition", "quiet-1"),
        *((kind, "quiet") for kind in CHILDREN),
    ]

    def versions_after_a_while() -> dict[tuple[str, str], str] | None:
        """None while somebody writes."""
        found = {key: cluster.get(*key)["metadata"]["resourceVersion"] for key in names}
        time.sleep(3)
        return (
            found
            if found == {key: cluster.get(*key)["metadata"]["resourceVersion"] for key in names}
            else None
        )

    before = cluster.wait(versions_after_a_while, "nobody writes any more")
    os.kill(operator.process.pid, signal.SIGKILL)
    operator.process.wait(10)
    with OperatorProcess(account, tmp_path, agents.port, free_port(), "second", **SETTINGS) as second:
        cluster.wait(lambda: "leads" in second.log(), "the second leads", timeout_s=40)
        services = second.metric("semipd_operator_services")
        cluster.wait(
            lambda: second.metric("semipd_operator_turns") >= services > 0, "it has looked at all of them"
        )
        time.sleep(3)
        assert {key: cluster.get(*key)["metadata"]["resourceVersion"] for key in names} == before
        cluster.delete("Service", "quiet")
        cluster.wait(lambda: cluster.get("Service", "quiet"), "it does its work")
