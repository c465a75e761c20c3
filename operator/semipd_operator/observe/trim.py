"""What is kept of each watched object: a fleet has tens of thousands, and most of each is of no use here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from semipd_operator.observe.child import view_child

Object = Mapping[str, Any]


def trim_pod(found: Object) -> Object:
    status = found.get("status", {})
    return {
        "metadata": _metadata(found, "uid", "deletionTimestamp"),
        "spec": {"nodeName": found.get("spec", {}).get("nodeName")},
        "status": {
            "podIP": status.get("podIP"),
            "conditions": [
                condition
                for condition in status.get("conditions", [])
                if condition.get("type") in ("Ready", "PodScheduled")
            ],
            "containerStatuses": [
                {"state": each.get("state", {}), "lastState": each.get("lastState", {})}
                for each in status.get("containerStatuses", [])
            ],
        },
    }


def trim_child(kind: str, found: Object) -> Object:
    """With `view`: the ChildView. Workloads keep their counts. Lists do not say the kind of their items."""
    kept: dict[str, Any] = {
        "kind": kind,
        "metadata": _metadata(found, "generation"),
        "view": view_child(found),
    }
    if kind in ("Deployment", "DaemonSet"):
        kept["spec"] = {"replicas": found.get("spec", {}).get("replicas", 1)}
        kept["status"] = found.get("status", {})
    if kind == "Service":
        kept["selector"] = found.get("spec", {}).get("selector") or {}
    return kept


def trim_partition(found: Object) -> Object:
    metadata = {key: value for key, value in found["metadata"].items() if key != "managedFields"}
    return {**found, "metadata": metadata}


def _metadata(found: Object, *more: str) -> Object:
    metadata = found["metadata"]
    names = ("name", "namespace", "resourceVersion", "labels", *more)
    return {name: metadata[name] for name in names if name in metadata}
