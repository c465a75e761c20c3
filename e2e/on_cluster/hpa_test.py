"""A HorizontalPodAutoscaler scales a service by the pressure that the operator measures, and no request is lost by it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import disruptions
import pytest
import services
import tiny_model
import yaml
from cluster_under_test import REPOSITORY, ClusterUnderTest
from external_metrics_process import external_metrics
from installation import OPERATOR_NAMESPACE
from kubectl import Kubectl, wait_for
from steady_load import steady_load

NAME = "chat"  # that of the example
RATE = 2  # requests/s
REPLICAS_MAX = 2
SCALED_TIMEOUT_S = (
    240  # the mean over three rounds, a look of the HPA's every 15 s, and its patience with a new metric
)


def manifest(model: str) -> dict[str, Any]:
    """Nothing keeps a TPOT of 1 ms, so the pressure is at its highest."""
    served = {"servedName": tiny_model.SERVED_NAME} if model == tiny_model.URI else {}
    return {
        "apiVersion": "semipd.io/v1alpha1",
        "kind": "SemiPDService",
        "metadata": {"name": NAME},
        "spec": {
            "model": {"uri": model, **served},
            "slo": {"ttft": {"targetMilliseconds": 5000}, "tpot": {"targetMilliseconds": 1}},
            "resources": {"memory": "2Gi", "kvCache": "16Mi"},
            "partition": {"mode": "Static"},
        },
    }


def hpa(namespace: str) -> dict[str, Any]:
    """The example, for fewer pods."""
    found: dict[str, Any] = yaml.safe_load((REPOSITORY / "examples" / "hpa.yaml").read_text())
    found["metadata"]["namespace"] = namespace
    found["spec"]["maxReplicas"] = REPLICAS_MAX
    return found


@contextmanager
def metrics_of_the_leader(kubectl: Kubectl) -> Iterator[str]:
    """The URL, by way of the API server."""
    leader = wait_for(lambda: disruptions.leading(kubectl), "an operator leads", 60)
    command = [str(kubectl.program), f"--kubeconfig={kubectl.kubeconfig}", "proxy", "--port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as proxy:
        try:
            assert proxy.stdout is not None
            address = proxy.stdout.readline().split()[-1]
            yield (
                f"http://{address}/api/v1/namespaces/{OPERATOR_NAMESPACE}/pods/{leader}:8080/proxy/metrics"
            )
        finally:
            proxy.terminate()


def owners_of_replicas(kubectl: Kubectl) -> set[tuple[str, str | None]]:
    entries = kubectl.get("SemiPDService", NAME)["metadata"]["managedFields"]
    return {
        (entry["manager"], entry.get("subresource"))
        for entry in entries
        if "f:replicas" in entry["fieldsV1"].get("f:spec", {})
    }


@pytest.mark.timeout(900)
def test_an_hpa_scales_a_service_under_pressure(
    kubectl: Kubectl, installed: ClusterUnderTest, tiny_model_uri: str
) -> None:
    if not installed.is_ours:
        pytest.skip("the API server of another cluster does not reach this machine's external metrics")
    kubectl.apply(manifest(tiny_model_uri))
    services.wait_settled(kubectl, NAME, 1)
    system = replace(kubectl, namespace="kube-system")
    with metrics_of_the_leader(kubectl) as url, external_metrics(url, system):
        kubectl.apply(hpa(kubectl.namespace))
        arguments = [f"--url=http://{NAME}", f"--model={tiny_model.SERVED_NAME}", f"--rate={RATE}"]
        with steady_load(kubectl, installed.operator_image, "load", arguments) as load:
            wait_for(
                lambda: kubectl.get("SemiPDService", NAME)["spec"]["replicas"] == REPLICAS_MAX,
                "the HPA asks for more",
                SCALED_TIMEOUT_S,
            )
            assert owners_of_replicas(kubectl) == {("kube-controller-manager", "scale")}
            services.wait_settled(kubectl, NAME, REPLICAS_MAX)
            count = load.stop()
    print(f"an HPA has scaled 1 -> {REPLICAS_MAX} by semipd_service_slo_pressure: {count}")
    assert count.failed == 0
    assert count.sent == count.completed > 0
    kubectl("delete", "hpa", NAME)
