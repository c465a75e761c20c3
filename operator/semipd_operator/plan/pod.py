"""The engine pod: one container without privileges, an init, the agent and its processes inside."""

from __future__ import annotations

import json
from typing import Any

from semipd_core.agent_config import ENDPOINT_LAG_S
from semipd_core.api.fields import Device, SecretKeyRef, Toleration
from semipd_core.api.service import SchedulingSpec, ServiceSpec
from semipd_operator.plan.effective import MODELS_DIRECTORY, Effective, pod_manifest
from semipd_operator.plan.naming import AGENT_PORT, HTTP_PORT, labels, selector

USER = 65532
RUN_DIRECTORY = "/run/semipd"
CACHE_DIRECTORY = "/cache"
STOP_S = 20  # for the agent to end its processes, beside the drain
START_PERIOD_S, START_FAILURES = 5, 360  # half an hour: a first start loads tens of GB

Manifest = dict[str, Any]


def pod_template(effective: Effective) -> Manifest:
    scheduling, drain = effective.spec.scheduling, effective.spec.drain
    spec: Manifest = {
        "serviceAccountName": effective.name,
        "automountServiceAccountToken": True,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": ENDPOINT_LAG_S + drain.timeout_seconds + STOP_S,
        "securityContext": pod_security(),
        "containers": [_container(effective)],
        "volumes": _volumes(effective),
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": selector(effective.name)},
                "matchLabelKeys": ["pod-template-hash"],
            }
        ],
    }
    if scheduling.node_selector:
        spec["nodeSelector"] = dict(sorted(scheduling.node_selector.items()))
    if scheduling.tolerations:
        spec["tolerations"] = tolerations(scheduling)
    if scheduling.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": ref.name} for ref in scheduling.image_pull_secrets]
    if scheduling.runtime_class_name:
        spec["runtimeClassName"] = scheduling.runtime_class_name
    return {"metadata": {"labels": labels(effective.name)}, "spec": spec}


def pod_security() -> Manifest:
    """What the Pod Security Standard `restricted` asks of a pod."""
    return {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security() -> Manifest:
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def _container(effective: Effective) -> Manifest:
    """No liveness probe: requests outlive a dead agent, which the init restarts, and would not outlive the container.

    No preStop: `semipd pod` serves on for ENDPOINT_LAG_S after SIGTERM, and tells clients to connect anew meanwhile.
    """
    return {
        "name": "engine",
        "image": effective.image,
        "args": [
            "pod",
            "--run-dir",
            f"{RUN_DIRECTORY}/pod",  # the volume itself belongs to root
            "--port",
            str(HTTP_PORT),
            "--agent-port",
            str(AGENT_PORT),
        ],
        "env": _environment(effective),
        "ports": [
            {"name": "http", "containerPort": HTTP_PORT, "protocol": "TCP"},
            {"name": "agent", "containerPort": AGENT_PORT, "protocol": "TCP"},
        ],
        "resources": _resources(effective),
        "startupProbe": {
            **_probe("/readyz"),
            "periodSeconds": START_PERIOD_S,
            "failureThreshold": START_FAILURES,
        },
        "readinessProbe": {
            **_probe("/readyz"),
            "periodSeconds": 2,
            "failureThreshold": 2,
            "timeoutSeconds": 2,
        },
        "securityContext": container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": _mounts(effective),
    }


def _probe(path: str) -> Manifest:
    return {"httpGet": {"path": path, "port": "agent"}}


def _environment(effective: Effective) -> list[Manifest]:
    spec = effective.spec
    variables: list[Manifest] = [
        _from_field("POD_NAME", "metadata.name"),
        _from_field("POD_NAMESPACE", "metadata.namespace"),
        _from_field("POD_UID", "metadata.uid"),
        _from_field("NODE_NAME", "spec.nodeName"),
        {"name": "SEMIPD_SERVICE", "value": json.dumps(pod_manifest(effective), sort_keys=True)},
        {"name": "HF_HOME", "value": f"{CACHE_DIRECTORY}/huggingface"},
        {"name": "HOME", "value": CACHE_DIRECTORY},
    ]
    if not effective.allows_all_of_auto:
        variables.append({"name": "SEMIPD_ISOLATIONS", "value": ",".join(effective.allowed_isolations)})
    if spec.model.token_secret_ref:
        variables.append(_from_secret("HF_TOKEN", spec.model.token_secret_ref))
    if spec.http.api_key_secret_ref:
        variables.append(_from_secret("SEMIPD_API_KEY", spec.http.api_key_secret_ref))
    return variables


def _from_field(name: str, path: str) -> Manifest:
    return {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}


def _from_secret(name: str, ref: SecretKeyRef) -> Manifest:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": ref.name, "key": ref.key}}}


def _resources(effective: Effective) -> Manifest:
    """CPU is asked for and not limited: a throttled coordinator would stall a whole GPU."""
    resources = effective.spec.resources
    requests: Manifest = {}
    limits: Manifest = {}
    if resources.cpu is not None:
        requests["cpu"] = str(resources.cpu)
    if resources.memory is not None:
        requests["memory"] = limits["memory"] = str(resources.memory)
    if effective.device is Device.CUDA:
        limits["nvidia.com/gpu"] = requests["nvidia.com/gpu"] = str(effective.gpus_per_pod)
    return {name: value for name, value in (("requests", requests), ("limits", limits)) if value}


def _mounts(effective: Effective) -> list[Manifest]:
    mounts: list[Manifest] = [
        {"name": "run", "mountPath": RUN_DIRECTORY},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - of the container alone
        {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108
        {"name": "cache", "mountPath": CACHE_DIRECTORY},
    ]
    if effective.model.scheme in ("pvc", "image"):
        mounts.append({"name": "model", "mountPath": MODELS_DIRECTORY, "readOnly": True})
    return mounts


def _volumes(effective: Effective) -> list[Manifest]:
    volumes: list[Manifest] = [
        {"name": "run", "emptyDir": {}},
        {"name": "tmp", "emptyDir": {}},
        {"name": "shm", "emptyDir": {"medium": "Memory"}},
        {"name": "cache", **_cache(effective.spec)},
    ]
    model = effective.model
    if model.scheme == "pvc":
        claim, _, _ = model.location.partition("/")
        volumes.append({"name": "model", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}})
    if model.scheme == "image":
        volumes.append({"name": "model", "image": {"reference": model.location}})
    return volumes


def _cache(spec: ServiceSpec) -> Manifest:
    if spec.model.cache is None:
        return {"emptyDir": {}}
    return {"persistentVolumeClaim": {"claimName": spec.model.cache.persistent_volume_claim.claim_name}}


def tolerations(scheduling: SchedulingSpec) -> list[Manifest]:
    return [_toleration(toleration) for toleration in scheduling.tolerations]


def _toleration(toleration: Toleration) -> Manifest:
    pairs = {
        "key": toleration.key,
        "operator": toleration.operator,
        "value": toleration.value,
        "effect": toleration.effect,
        "tolerationSeconds": toleration.toleration_seconds,
    }
    return {key: value for key, value in pairs.items() if value is not None}
