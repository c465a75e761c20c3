"""`routing` changed on a live service, the operator against a real API server, its controllers played by the test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from api_server import API_SERVER_IS_BUILT, api_server_with_crds
from operator_process import NAMESPACE, Cluster, OperatorProcess, service_manifest, serving_agents
from running_service import free_port

from semipd_operator import kinds
from semipd_operator.plan.naming import PROXY, labels

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not API_SERVER_IS_BUILT, reason="the API server is not built: make cluster-build"),
]
PROXY_CHILDREN = [
    (kind, "chat-proxy")
    for kind in (
        "ServiceAccount",
        "Role",
        "RoleBinding",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "Deployment",
    )
]
POOL_CRD = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {
        "name": "inferencepools.inference.networking.k8s.io",
        "annotations": {"api-approved.kubernetes.io": "unapproved, a test's"},
    },
    "spec": {
        "group": "inference.networking.k8s.io",
        "names": {"kind": "InferencePool", "plural": "inferencepools"},
        "scope": "Namespaced",
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
                },
            }
        ],
    },
}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """With the operator running in it, and without a kind for pools."""
    with api_server_with_crds(tmp_path / "api-server") as kubeconfig, serving_agents() as agents:
        running = Cluster(kubeconfig)
        with OperatorProcess(kubeconfig, tmp_path, agents.port, free_port(), resync_seconds="10"):
            yield running
        running.client.close()


def define_pools(cluster: Cluster) -> None:
    from lightkube.generic_resource import create_global_resource

    crd: Any = create_global_resource(
        "apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions"
    )
    cluster.client.create(crd(POOL_CRD))

    def is_established() -> bool:
        found = cluster.client.get(crd, POOL_CRD["metadata"]["name"])
        conditions = (found.get("status") or {}).get("conditions") or []
        return any(each["type"] == "Established" and each["status"] == "True" for each in conditions)

    cluster.wait(is_established, "the kind is served")


def backend(cluster: Cluster) -> str | None:
    found = cluster.get("Service", "chat")
    return found and found["spec"]["selector"]["app.kubernetes.io/component"]


def add_proxy_pod(cluster: Cluster, name: str) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels("chat", PROXY)},
        "spec": {"containers": [{"name": "proxy", "image": "semipd/operator:test"}]},
    }
    cluster.client.create(kinds.POD(pod), namespace=NAMESPACE)


def remove_pod(cluster: Cluster, name: str) -> None:
    cluster.client.delete(kinds.POD, name, namespace=NAMESPACE, grace_period=0)


def test_the_address_follows_the_proxies_and_they_leave_after_it(cluster: Cluster) -> None:
    cluster.apply(service_manifest("chat", replicas=1))
    cluster.wait(lambda: backend(cluster) == "engine", "the engines answer")
    assert cluster.get("Deployment", "chat-proxy") is None

    cluster.apply(service_manifest("chat", replicas=1, routing="Proxy"))
    for kind, name in [*PROXY_CHILDREN, ("Service", "chat-engines")]:
        cluster.wait(lambda kind=kind, name=name: cluster.get(kind, name), f"the {kind} {name} is there")
    cluster.wait(
        lambda: cluster.conditions("chat").get("Routed") == ("False", "ProxiesStarting"), "it says it waits"
    )
    assert backend(cluster) == "engine"
    image = cluster.get("Deployment", "chat-proxy")["spec"]["template"]["spec"]["containers"][0]["image"]
    assert image == "semipd/operator:test"

    cluster.report_workload("Deployment", "chat-proxy", 1)
    cluster.wait(lambda: "1 of 2" in routed_message(cluster), "the operator has seen that one proxy is ready")
    assert backend(cluster) == "engine"
    add_proxy_pod(cluster, "chat-proxy-1")
    cluster.report_workload("Deployment", "chat-proxy", 2)
    cluster.wait(lambda: backend(cluster) == "proxy", "the address leads to the proxies")
    cluster.wait(lambda: cluster.conditions("chat").get("Routed") == ("True", "ProxiesReady"), "it says so")
    assert cluster.get("SemiPDPartition", "chat-proxy-1") is None, "a proxy has no shares"

    cluster.report_workload("Deployment", "chat-proxy", 0)
    cluster.wait(lambda: backend(cluster) == "engine", "without proxies the engines answer")
    cluster.report_workload("Deployment", "chat-proxy", 2)
    cluster.wait(lambda: backend(cluster) == "proxy", "and the proxies when they are back")

    cluster.apply(service_manifest("chat", replicas=1, routing="Service"))
    cluster.wait(lambda: backend(cluster) == "engine", "the address leads back")
    cluster.wait(lambda: cluster.get("Deployment", "chat-proxy") is None, "the proxies are told to go")
    assert cluster.get("Service", "chat-engines"), "a proxy that drains has its endpoints"
    assert cluster.get("Role", "chat-proxy")
    remove_pod(cluster, "chat-proxy-1")
    for kind, name in [*PROXY_CHILDREN, ("Service", "chat-engines")]:
        cluster.wait(lambda kind=kind, name=name: cluster.get(kind, name) is None, f"{kind} {name} is gone")
    cluster.wait(lambda: "Routed" not in cluster.conditions("chat"), "there is no other way to speak of")


def routed_message(cluster: Cluster) -> str:
    conditions = ((cluster.get("SemiPDService", "chat") or {}).get("status") or {}).get("conditions", [])
    return next((each["message"] for each in conditions if each["type"] == "Routed"), "")


def test_a_pool_comes_with_its_kind_and_its_routing_and_goes_with_it(cluster: Cluster) -> None:
    cluster.apply(service_manifest("chat", replicas=1, routing="InferencePool"))
    cluster.wait(
        lambda: cluster.conditions("chat").get("Routed") == ("False", "NoInferencePoolKind"),
        "there are no pools yet",
    )
    define_pools(cluster)
    pool = cluster.wait(lambda: cluster.get("InferencePool", "chat"), "the pool is there")
    assert pool["spec"]["targetPorts"] == [{"number": 8000}]
    assert pool["spec"]["selector"]["matchLabels"].items() <= labels("chat").items()
    cluster.wait(lambda: cluster.conditions("chat").get("Routed") == ("True", "EnginesAnswer"), "it says so")
    cluster.apply(service_manifest("chat", replicas=1, routing="Service"))
    cluster.wait(lambda: cluster.get("InferencePool", "chat") is None, "the pool is gone")
