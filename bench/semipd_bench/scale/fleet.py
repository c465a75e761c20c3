"""The objects of the simulated fleet: what people apply, and what controllers and kubelets would add. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any, NamedTuple

from semipd_core.api.fields import API_VERSION
from semipd_core.api.service_class import DEFAULT_CLASS_ANNOTATION
from semipd_operator.plan.naming import labels

SERVICES_PER_NAMESPACE = 50
FIRST_ADDRESS = int(IPv4Address("127.16.0.1"))  # the whole of 127/8 is this machine
GPU_BUDGET = 100_000  # is never reached, and counted all the same

Manifest = dict[str, Any]


class PodName(NamedTuple):
    """`service` counts over the whole fleet, `replica` within its service."""

    service: int
    replica: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    services: int
    pods_per_service: int

    @property
    def pods(self) -> int:
        return self.services * self.pods_per_service

    @property
    def namespaces(self) -> list[str]:
        return [namespace_of(number) for number in range(0, self.services, SERVICES_PER_NAMESPACE)]

    def pod_names(self) -> Iterator[PodName]:
        for service in range(self.services):
            for replica in range(self.pods_per_service):
                yield PodName(service, replica)

    def number_of(self, pod: PodName) -> int:
        return pod.service * self.pods_per_service + pod.replica

    def address_of(self, pod: PodName) -> str:
        return str(IPv4Address(FIRST_ADDRESS + self.number_of(pod)))

    def pod_at(self, address: str) -> PodName:
        return PodName(*divmod(int(IPv4Address(address)) - FIRST_ADDRESS, self.pods_per_service))


def namespace_of(service: int) -> str:
    return f"team-{service // SERVICES_PER_NAMESPACE:03d}"


def service_name(service: int) -> str:
    return f"chat-{service:05d}"


def pod_name(pod: PodName) -> str:
    return f"{service_name(pod.service)}-{pod.replica:02d}"


def parse_pod_name(name: str) -> PodName:
    _, service, replica = name.split("-")
    return PodName(int(service), int(replica))


def parse_service_name(name: str) -> int:
    return int(name.removeprefix("chat-"))


def build_class() -> Manifest:
    """With a budget, so that the GPUs of a namespace are counted as they would be."""
    return {
        "apiVersion": API_VERSION,
        "kind": "SemiPDClass",
        "metadata": {"name": "standard", "annotations": {DEFAULT_CLASS_ANNOTATION: "true"}},
        "spec": {"device": "CUDA", "gpuBudget": GPU_BUDGET, "nodeSelector": {"pool": "gpu"}},
    }


def build_service(service: int, replicas: int) -> Manifest:
    """The defaults of the API but for the model."""
    return {
        "apiVersion": API_VERSION,
        "kind": "SemiPDService",
        "metadata": {"name": service_name(service), "namespace": namespace_of(service)},
        "spec": {
            "model": {"uri": "hf://meta-llama/Llama-3.1-8B-Instruct"},
            "replicas": replicas,
            "resources": {"cpu": "4", "memory": "32Gi"},
        },
    }


def build_pod(pod: PodName, template: Manifest, workload: str, workload_uid: str) -> Manifest:
    """From the pod template of its workload, which owns it; a Deployment's ReplicaSet in between is left out."""
    owner = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "name": workload,
        "uid": workload_uid,
        "controller": True,
    }
    spec = {**template["spec"], "nodeName": f"node-{pod.service % 250:03d}"}
    spec.pop("topologySpreadConstraints", None)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod_name(pod),
            "namespace": namespace_of(pod.service),
            "labels": {**labels(service_name(pod.service)), **template["metadata"].get("labels", {})},
            "annotations": template["metadata"].get("annotations", {}),
            "ownerReferences": [owner],
        },
        "spec": spec,
    }


def build_pod_status(address: str, now: str) -> Manifest:
    """As a kubelet's, of a pod that serves. `now`: RFC 3339."""
    conditions = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
    container = {
        "name": "engine",
        "image": "semipd/engine:scale",
        "imageID": "docker.io/semipd/engine@sha256:" + 64 * "0",
        "containerID": "containerd://" + 64 * "0",
        "ready": True,
        "started": True,
        "restartCount": 0,
        "state": {"running": {"startedAt": now}},
    }
    return {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "hostIP": "127.0.0.1",
        "startTime": now,
        "conditions": [{"type": kind, "status": "True", "lastTransitionTime": now} for kind in conditions],
        "containerStatuses": [container],
    }


def build_workload_status(generation: int, replicas: int) -> Manifest:
    return {
        "observedGeneration": generation,
        "replicas": replicas,
        "readyReplicas": replicas,
        "updatedReplicas": replicas,
        "availableReplicas": replicas,
    }
