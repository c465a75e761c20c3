"""The Deployment or the DaemonSet of a service, and what keeps it up while nodes drain."""

from __future__ import annotations

from semipd_core.api.service import Placement
from semipd_operator.plan.effective import Effective
from semipd_operator.plan.naming import ENGINE, TEMPLATE_ANNOTATION, child_name, labels, selector
from semipd_operator.plan.pod import Manifest, pod_template
from semipd_operator.plan.target import Target

PROGRESS_DEADLINE_S = 1800  # a first start may fetch tens of GB
REVISIONS_KEPT = 5


def build_workload(effective: Effective, target: Target) -> Manifest:
    """Where the service leaves `replicas` open, those that there are: taken out of an apply, they would become 1."""
    if effective.spec.placement is Placement.EVERY_NODE:
        return _daemon_set(effective, target)
    return _deployment(effective, target)


def build_disruption_budget(effective: Effective) -> list[Manifest]:
    """One pod at a time: a node drain waits until the pod that it took is replaced.

    None for a DaemonSet: it has no scale to count from, so that such a budget would refuse each eviction for ever.
    """
    if effective.spec.placement is Placement.EVERY_NODE:
        return []
    return [disruption_budget(effective, ENGINE, "")]


def disruption_budget(effective: Effective, component: str, suffix: str) -> Manifest:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(effective, suffix, component),
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": selector(effective.name, component)},
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }


def metadata(effective: Effective, suffix: str = "", component: str = ENGINE) -> Manifest:
    """Of a child: owned by the service, so that it goes with it and needs no finalizer."""
    owner = {
        "apiVersion": "semipd.io/v1alpha1",
        "kind": "SemiPDService",
        "name": effective.name,
        "uid": effective.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }
    return {
        "name": child_name(effective.name, suffix),
        "namespace": effective.namespace,
        "labels": labels(effective.name, component),
        "ownerReferences": [owner],
    }


def _deployment(effective: Effective, target: Target) -> Manifest:
    """`minReadySeconds` is absent unless a template is on trial; it has to end before the deadline does."""
    steps = target.steps
    spec: Manifest = {
        "selector": {"matchLabels": selector(effective.name)},
        "strategy": {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxSurge": steps.max_surge, "maxUnavailable": steps.max_unavailable},
        },
        "progressDeadlineSeconds": steps.min_ready_seconds + PROGRESS_DEADLINE_S,
        "revisionHistoryLimit": REVISIONS_KEPT,
        "template": target.kept or pod_template(effective),
    }
    if steps.min_ready_seconds:
        spec["minReadySeconds"] = steps.min_ready_seconds
    replicas = target.replicas if effective.spec.replicas is None else effective.spec.replicas
    if replicas is not None:
        spec["replicas"] = replicas
    return _workload("Deployment", effective, target, spec)


def _daemon_set(effective: Effective, target: Target) -> Manifest:
    """A DaemonSet takes either a surge or an outage, not both: a surge where the service allows one."""
    rollout = effective.spec.rollout
    surge = rollout.max_surge > 0 and effective.gpus_per_pod == 0  # a node has no second set of GPUs
    update = (
        {"maxSurge": rollout.max_surge, "maxUnavailable": 0}
        if surge
        else {"maxSurge": 0, "maxUnavailable": max(1, rollout.max_unavailable)}
    )
    template = pod_template(effective)
    del template["spec"]["topologySpreadConstraints"]
    spec = {
        "selector": {"matchLabels": selector(effective.name)},
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": update},
        "revisionHistoryLimit": REVISIONS_KEPT,
        "template": template,
    }
    return _workload("DaemonSet", effective, target, spec)


def _workload(kind: str, effective: Effective, target: Target, spec: Manifest) -> Manifest:
    annotations = {TEMPLATE_ANNOTATION: target.digest}
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {**metadata(effective), "annotations": annotations},
        "spec": spec,
    }
