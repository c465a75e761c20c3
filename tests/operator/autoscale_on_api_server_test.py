"""The autoscale block against a real API server: the number moves once, is never fought over, and outlives the operator."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from api_server import API_SERVER_IS_BUILT
from busy_engine import traffic
from lightkube import ApiError
from lightkube.generic_resource import create_global_resource
from lightkube.types import PatchType
from operator_process import NAMESPACE, Agents, Cluster, OperatorProcess, service_manifest
from running_service import free_port

from semipd_core.cluster.autoscale import UP_PERIOD_S
from semipd_operator import kinds

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not API_SERVER_IS_BUILT, reason="the API server is not built: make cluster-build"),
]


@pytest.fixture
def operator(kubeconfig: Path, agents: Agents, tmp_path: Path) -> Iterator[OperatorProcess]:
    with OperatorProcess(kubeconfig, tmp_path, agents.port, free_port()) as running:
        yield running


def until(cluster: Cluster, is_done: Callable[[], object], what: str) -> Any:
    """With time for a busy machine."""
    return cluster.wait(is_done, what, timeout_s=240)


def deploy(cluster: Cluster, name: str, replicas: int, **autoscale: int) -> None:
    """With as many ready pods; its number was last set an hour ago."""
    manifest = service_manifest(name, replicas=replicas, autoscale=autoscale, partition={"mode": "Static"})
    cluster.client.create(kinds.SERVICE(manifest), namespace=NAMESPACE, field_manager="kubectl-create")
    follow(cluster, name, replicas)


def follow(cluster: Cluster, name: str, replicas: int) -> None:
    """As controllers and kubelets would, once the Deployment asks for `replicas`."""
    until(cluster, lambda: deployed(cluster, name) == replicas, f"the Deployment asks for {replicas}")
    for number in range(replicas):
        pod = f"{name}-{number}"
        if not exists(cluster, pod):
            cluster.add_pod(name, pod)
        until(cluster, lambda pod=pod: cluster.get("SemiPDPartition", pod), "the pod has its partition")
        cluster.report_partition(pod)
    cluster.report_workload("Deployment", name, replicas)


def exists(cluster: Cluster, pod: str) -> bool:
    return any(
        each["metadata"]["name"] == pod for each in cluster.client.list(kinds.POD, namespace=NAMESPACE)
    )


def deployed(cluster: Cluster, name: str) -> int | None:
    found = cluster.get("Deployment", name)
    return None if found is None else found["spec"].get("replicas")


def replicas(cluster: Cluster, name: str) -> int:
    wanted: int = cluster.get("SemiPDService", name)["spec"]["replicas"]
    return wanted


def scaling(cluster: Cluster, name: str) -> tuple[str, str] | None:
    return cluster.conditions(name).get("ScalingActive")


def scalings(cluster: Cluster, name: str) -> list[Any]:
    found: list[Any] = cluster.get("SemiPDService", name)["status"]["scalings"]
    return found


def seconds_between(earlier: str, later: str) -> float:
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()


def events(cluster: Cluster, reason: str) -> list[Any]:
    return [
        each for each in cluster.client.list(kinds.EVENT, namespace=NAMESPACE) if each["reason"] == reason
    ]


def owners(cluster: Cluster, name: str) -> dict[str, Any]:
    managed = cluster.get("SemiPDService", name)["metadata"]["managedFields"]
    return {each["manager"]: each for each in managed if "f:replicas" in each["fieldsV1"].get("f:spec", {})}


def test_pressure_raises_the_number_once_in_a_period_also_over_a_restart(
    kubeconfig: Path, cluster: Cluster, operator: OperatorProcess, agents: Agents, tmp_path: Path
) -> None:
    deploy(cluster, "busy", 1, minReplicas=1, maxReplicas=8)
    with traffic(agents, ttft_ms=360.0):
        until(cluster, lambda: replicas(cluster, "busy") == 2, "pressure 0.9 asks for two")
        assert set(owners(cluster, "busy")) == {"semipd-operator-autoscale"}
        first = scalings(cluster, "busy")[0]
        assert (first["fromReplicas"], first["toReplicas"], first["reason"]) == (1, 2, "PressureHigh")
        assert first["tokensPerSecondPerPod"] > 0
        created = cluster.get("SemiPDService", "busy")["metadata"]["creationTimestamp"]
        assert seconds_between(created, first["time"]) >= UP_PERIOD_S, "the manifest's number is a change too"
        until(cluster, lambda: events(cluster, "ScaledUp"), "it is told")
        assert "1 -> 2" in events(cluster, "ScaledUp")[0]["note"]
        follow(cluster, "busy", 2)
        os.kill(operator.process.pid, signal.SIGKILL)
        operator.process.wait(10)
        with OperatorProcess(kubeconfig, tmp_path, agents.port, free_port(), "second") as second:
            until(cluster, lambda: "leads" in second.log(), "the second leads")
            until(cluster, lambda: replicas(cluster, "busy") > 2, "it goes on when the period is over")
        later = scalings(cluster, "busy")
        assert later[1] == first
        assert seconds_between(first["time"], later[0]["time"]) >= UP_PERIOD_S


def test_bounds_win_at_once_and_without_data(cluster: Cluster, operator: OperatorProcess) -> None:
    deploy(cluster, "few", 1, minReplicas=1, maxReplicas=4)
    until(cluster, lambda: (scaling(cluster, "few") or ("", ""))[1] == "NoData", "nobody reports")
    cluster.client.patch(
        kinds.SERVICE,
        "few",
        {"spec": {"autoscale": {"minReplicas": 3}}},
        namespace=NAMESPACE,
        patch_type=PatchType.MERGE,
        field_manager="kubectl-edit",
    )
    until(cluster, lambda: replicas(cluster, "few") == 3, "the new minimum holds")
    until(cluster, lambda: deployed(cluster, "few") == 3, "and reaches the Deployment")


def test_another_autoscaler_is_named_and_not_fought_over(
    cluster: Cluster, operator: OperatorProcess, agents: Agents
) -> None:
    """Both directions: it writes first, and it writes after us."""
    deploy(cluster, "shared", 2, minReplicas=2, maxReplicas=8)
    cluster.scale("shared", 5)
    until(cluster, lambda: scaling(cluster, "shared") == ("False", "ReplicasOwned"), "a condition says so")
    message = next(
        each["message"]
        for each in cluster.get("SemiPDService", "shared")["status"]["conditions"]
        if each["type"] == "ScalingActive"
    )
    assert "sets spec.replicas through /scale" in message
    cluster.client.patch(
        kinds.SERVICE,
        "shared",
        {"spec": {"autoscale": {"maxReplicas": 3}}},
        namespace=NAMESPACE,
        patch_type=PatchType.MERGE,
        field_manager="kubectl-edit",
    )
    turns = operator.metric("semipd_operator_turns")
    until(cluster, lambda: operator.metric("semipd_operator_turns") > turns + 3, "it has looked again")
    assert replicas(cluster, "shared") == 5, "not even the bounds are held against another owner"
    cluster.client.patch(
        kinds.SERVICE.Scale,
        "shared",
        {"spec": {"replicas": 4}},
        namespace=NAMESPACE,
        patch_type=PatchType.MERGE,
        field_manager="kubectl",
    )
    until(
        cluster,
        lambda: replicas(cluster, "shared") == 3,
        "kubectl scale hands the number back: the maximum wins",
    )


ADMISSION = "admissionregistration.k8s.io"
POLICY: Any = create_global_resource(
    ADMISSION, "v1", "ValidatingAdmissionPolicy", "validatingadmissionpolicies"
)
BINDING: Any = create_global_resource(
    ADMISSION, "v1", "ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings"
)


def forbid_more_than(cluster: Cluster, name: str, most: int) -> None:
    """As a platform team would, for one service."""
    rule = {
        "apiGroups": ["semipd.io"],
        "apiVersions": ["*"],
        "operations": ["UPDATE"],
        "resources": ["semipdservices/scale"],
    }
    spec = {
        "matchConstraints": {"resourceRules": [rule]},
        "matchConditions": [{"name": "one", "expression": f"request.name == '{name}'"}],
        "validations": [{"expression": f"object.spec.replicas <= {most}", "message": f"at most {most} here"}],
    }
    metadata = {"name": f"cap-{name}"}
    cluster.client.create(POLICY({"metadata": metadata, "spec": spec}))
    binding = {"policyName": f"cap-{name}", "validationActions": ["Deny"]}
    cluster.client.create(BINDING({"metadata": metadata, "spec": binding}))
    until(cluster, lambda: is_refused(cluster, name, most + 1), "the policy is in force")


def is_refused(cluster: Cluster, name: str, count: int) -> bool:
    patch = {"spec": {"replicas": count}}
    try:
        cluster.client.patch(
            kinds.SERVICE.Scale,
            name,
            patch,
            namespace=NAMESPACE,
            patch_type=PatchType.MERGE,
            dry_run=True,
        )
    except ApiError as error:
        return "here" in error.status.message
    return False


def test_a_number_that_the_api_server_refuses_is_said_and_not_written_down(
    cluster: Cluster, operator: OperatorProcess
) -> None:
    deploy(cluster, "capped", 1, minReplicas=1, maxReplicas=8)
    forbid_more_than(cluster, "capped", 2)
    cluster.client.patch(
        kinds.SERVICE,
        "capped",
        {"spec": {"autoscale": {"minReplicas": 4}}},
        namespace=NAMESPACE,
        patch_type=PatchType.MERGE,
        field_manager="kubectl-edit",
    )
    until(
        cluster, lambda: scaling(cluster, "capped") == ("False", "FailedUpdateScale"), "a condition says so"
    )
    found = cluster.get("SemiPDService", "capped")
    said = next(each for each in found["status"]["conditions"] if each["type"] == "ScalingActive")["message"]
    assert said.startswith("4 replicas: ")
    assert "at most 2 here" in said
    assert found["spec"]["replicas"] == 1
    assert not any(each["toReplicas"] == 4 for each in found["status"].get("scalings", []))


def test_a_service_without_the_block_is_silent_and_one_that_loses_it_keeps_its_number(
    cluster: Cluster, operator: OperatorProcess
) -> None:
    deploy(cluster, "plain", 2, minReplicas=1, maxReplicas=4)
    until(cluster, lambda: scaling(cluster, "plain"), "it says something of scaling")
    cluster.client.patch(
        kinds.SERVICE, "plain", {"spec": {"autoscale": None}}, namespace=NAMESPACE, patch_type=PatchType.MERGE
    )
    until(cluster, lambda: scaling(cluster, "plain") is None, "absent: the feature is off")
    assert replicas(cluster, "plain") == 2
