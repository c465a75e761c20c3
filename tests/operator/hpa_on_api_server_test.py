"""A real HorizontalPodAutoscaler moves spec.replicas by the operator's metrics, and KEDA's schema takes the example."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from api_server import API_SERVER_IS_BUILT, ROOT
from busy_engine import traffic
from external_metrics_process import external_metrics as serving
from lightkube.types import PatchType
from operator_process import NAMESPACE, Agents, Cluster, OperatorProcess, service_manifest
from running_service import free_port

from semipd_cluster import build, controllers
from semipd_cluster.api import kubectl
from semipd_cluster.control_plane import ControlPlane
from semipd_cluster.errors import ClusterError
from semipd_cluster.processes import running
from semipd_operator import kinds

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not API_SERVER_IS_BUILT, reason="the API server is not built: make cluster-build"),
]
MANAGER_FLAGS = (
    "--controllers=horizontal-pod-autoscaler-controller",
    "--horizontal-pod-autoscaler-sync-period=2s",
)


class Kubectl:
    def __init__(self, programs: Path, kubeconfig: Path) -> None:
        self._programs, self._kubeconfig = programs, kubeconfig

    def __call__(self, *arguments: str, stdin: str | None = None) -> str:
        return kubectl(self._programs, self._kubeconfig, *arguments, stdin=stdin)


@pytest.fixture(scope="module")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """With the kinds of semipd and KEDA, and of the controllers the one of HPAs."""
    programs = build.find_programs()
    assert programs is not None
    with contextlib.ExitStack() as started:
        api = started.enter_context(ControlPlane(tmp_path_factory.mktemp("hpa"), programs=programs))
        ask = Kubectl(programs, api.kubeconfig)
        ask("apply", "--server-side", "-k", str(ROOT / "crds"))
        ask("apply", "--server-side", "-f", str(ROOT / "tests/operator/keda/scaledobjects.yaml"))
        ask("wait", "--for=condition=Established", "crd", "--all", "--timeout=90s")
        ask("create", "namespace", NAMESPACE)
        name = "kube-controller-manager"
        command = [*controllers.build_commands(api)[name], *MANAGER_FLAGS]
        started.enter_context(running(name, command, api.logs))
        yield api


@pytest.fixture(scope="module")
def ask(control_plane: ControlPlane) -> Kubectl:
    return Kubectl(control_plane.programs, control_plane.kubeconfig)


@pytest.fixture(scope="module")
def cluster(control_plane: ControlPlane) -> Iterator[Cluster]:
    found = Cluster(control_plane.kubeconfig)
    yield found
    found.client.close()


@pytest.fixture(scope="module")
def operator(
    control_plane: ControlPlane, agents: Agents, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OperatorProcess]:
    with OperatorProcess(
        control_plane.kubeconfig, tmp_path_factory.mktemp("operator"), agents.port, free_port()
    ) as started:
        yield started


@pytest.fixture(scope="module")
def external_metrics(operator: OperatorProcess, ask: Kubectl, cluster: Cluster) -> Iterator[None]:
    with serving(f"{operator.health}/metrics", ask):
        yield


def until(cluster: Cluster, is_done: Callable[[], object], what: str) -> Any:
    """With time for a busy machine."""
    return cluster.wait(is_done, what, timeout_s=120)


def example(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "examples" / name).read_text())
    return loaded


def deploy(cluster: Cluster, name: str, count: int) -> None:
    """A service with `count` ready pods, and without an autoscale block."""
    manifest = service_manifest(name, replicas=count, partition={"mode": "Static"})
    cluster.client.create(kinds.SERVICE(manifest), namespace=NAMESPACE, field_manager="kubectl-create")
    until(cluster, lambda: cluster.get("Deployment", name), "the Deployment is there")
    for number in range(count):
        cluster.add_pod(name, f"{name}-{number}")
    cluster.report_workload("Deployment", name, count)


def hpa_conditions(ask: Kubectl, name: str) -> dict[str, tuple[str, str]]:
    found = json.loads(ask("get", "hpa", name, "-n", NAMESPACE, "-o", "json"))
    conditions = found.get("status", {}).get("conditions", [])
    return {each["type"]: (each["status"], each["reason"]) for each in conditions}


def wanted(cluster: Cluster, name: str) -> int:
    count: int = cluster.get("SemiPDService", name)["spec"]["replicas"]
    return count


def test_an_hpa_holds_without_data_and_raises_the_number_under_pressure(
    cluster: Cluster, ask: Kubectl, agents: Agents, external_metrics: None
) -> None:
    deploy(cluster, "chat", 1)
    ask("apply", "-f", "-", stdin=json.dumps(example("hpa.yaml")))
    until(
        cluster,
        lambda: hpa_conditions(ask, "chat").get("ScalingActive") == ("False", "FailedGetExternalMetric"),
        "no data is no metric",
    )
    assert wanted(cluster, "chat") == 1
    with traffic(agents, ttft_ms=360.0):
        until(cluster, lambda: wanted(cluster, "chat") == 2, "0.9 of 0.5 on one pod: two")
        until(
            cluster,
            lambda: cluster.get("Deployment", "chat")["spec"]["replicas"] == 2,
            "the Deployment follows",
        )
        managed = cluster.get("SemiPDService", "chat")["metadata"]["managedFields"]
        owners = {
            (each["manager"], each.get("subresource"))
            for each in managed
            if "f:replicas" in each["fieldsV1"].get("f:spec", {})
        }
        assert owners == {("kube-controller-manager", "scale")}


def test_an_autoscale_block_beside_an_hpa_stands_back(
    cluster: Cluster, ask: Kubectl, agents: Agents, external_metrics: None
) -> None:
    deploy(cluster, "both", 1)
    hpa = example("hpa.yaml")
    hpa["metadata"]["name"] = hpa["spec"]["scaleTargetRef"]["name"] = "both"
    hpa["spec"]["metrics"][0]["external"]["metric"]["selector"]["matchLabels"]["name"] = "both"
    ask("apply", "-f", "-", stdin=json.dumps({**hpa, "spec": {**hpa["spec"], "minReplicas": 3}}))
    until(cluster, lambda: wanted(cluster, "both") == 3, "the HPA holds its minimum")
    cluster.client.patch(
        kinds.SERVICE,
        "both",
        {"spec": {"autoscale": {"minReplicas": 1, "maxReplicas": 2}}},
        namespace=NAMESPACE,
        patch_type=PatchType.MERGE,
        field_manager="kubectl-edit",
    )
    until(
        cluster,
        lambda: cluster.conditions("both").get("ScalingActive") == ("False", "ReplicasOwned"),
        "it says so",
    )
    versions = set()
    deadline_s = time.monotonic() + 6  # three turns of the HPA
    while time.monotonic() < deadline_s:
        assert wanted(cluster, "both") == 3
        versions.add(cluster.get("SemiPDService", "both")["metadata"]["generation"])
        time.sleep(0.2)
    assert len(versions) == 1, "nobody writes"


def test_kubectl_scale_reaches_the_deployment(
    cluster: Cluster, ask: Kubectl, operator: OperatorProcess
) -> None:
    deploy(cluster, "byhand", 1)
    ask("scale", "semipdservice/byhand", "-n", NAMESPACE, "--replicas=4")
    until(
        cluster,
        lambda: cluster.get("Deployment", "byhand")["spec"]["replicas"] == 4,
        "the Deployment follows",
    )
    assert json.loads(
        ask("get", "--raw", f"/apis/semipd.io/v1alpha1/namespaces/{NAMESPACE}/semipdservices/byhand/scale")
    )["spec"] == {"replicas": 4}


def test_keda_takes_the_example_and_refuses_a_word_it_does_not_know(ask: Kubectl) -> None:
    keda = example("keda.yaml")
    ask("apply", "--server-side", "--validate=strict", "-f", str(ROOT / "examples/keda.yaml"))
    kept = json.loads(ask("get", "scaledobject", "chat", "-n", NAMESPACE, "-o", "json"))["spec"]
    assert kept == keda["spec"], "nothing is pruned"
    wrong = {**keda, "spec": {**keda["spec"], "maxReplicas": 8}}
    with pytest.raises(ClusterError, match="maxReplicas"):
        ask("apply", "--server-side", "--validate=strict", "-f", "-", stdin=json.dumps(wrong))
