"""What is kept of each watched object: a fleet has tens of thousands, and most of each is of no use here."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from semipd_core.api import codec
from semipd_core.errors import InvalidSpec
from semipd_operator.observe.child import view_child
from semipd_operator.plan.naming import COMPONENT_LABEL, HASH_LABEL, SERVICE_LABEL, TEMPLATE_ANNOTATION
from semipd_operator.plan.observed import owns_replicas, view_pod
from semipd_shell import log

Object = Mapping[str, Any]

_LABELS = (SERVICE_LABEL, COMPONENT_LABEL, HASH_LABEL)

_log = log.logger(__name__)


def plain(found: Object) -> Object:
    """A copy without what nobody reads: the manifest that was applied last, and who owns which field but spec.replicas."""
    metadata = dict(found["metadata"])
    metadata["managedFields"] = [
        {**entry, "fieldsV1": {"f:spec": {"f:replicas": {}}}}
        for entry in metadata.get("managedFields", [])
        if owns_replicas(entry)
    ]
    annotations = dict(metadata.get("annotations", {}))
    annotations.pop("kubectl.kubernetes.io/last-applied-configuration", None)
    return {**found, "metadata": {**metadata, "annotations": annotations}}


def trim_service(found: Object) -> Object:
    """Without the managers of fields whose managers are of no interest: they are most of it."""
    metadata = found["metadata"]
    if "managedFields" in metadata:
        owners = [entry for entry in metadata["managedFields"] if owns_replicas(entry)]
        metadata = {**metadata, "managedFields": owners}
    shared: Object = share_words({**found, "metadata": metadata})
    return shared


def trim_pod(found: Object) -> Object:
    """With `view`: the PodView, whose template only its revision can tell."""
    view = view_pod(found)
    shared = replace(view, node=share_words(view.node), problem=share_words(view.problem))
    return {"metadata": _metadata(found), "view": shared}


def share_words(value: Any) -> Any:
    """The same JSON, in which equal strings of all objects of a fleet are one in memory. Keys too: each answer brings its own."""
    match value:
        case str():
            return sys.intern(value)
        case dict():
            return {sys.intern(key): share_words(each) for key, each in value.items()}
        case list():
            return [share_words(each) for each in value]
    return value


def trim_child(kind: str, found: Object) -> Object:
    """With `view`: the ChildView. Workloads keep their counts. Lists do not say the kind of their items."""
    kept: dict[str, Any] = {
        "kind": kind,
        "metadata": _metadata(found, "generation"),
        "view": view_child(found),
    }
    if kind in ("Deployment", "DaemonSet"):
        kept["spec"] = {"replicas": found.get("spec", {}).get("replicas", 1)}
        kept["status"] = share_words(found.get("status", {}))
        kept["template"] = _template(found)
    if kind == "Service":
        kept["selector"] = share_words(found.get("spec", {}).get("selector") or {})
    return kept


def trim_replica_set(found: Object) -> Object:
    """Which revision of a Deployment it is, and how large."""
    return {
        "metadata": _metadata(found),
        "hash": found["metadata"].get("labels", {}).get(HASH_LABEL, ""),
        "template": _template(found),
        "replicas": found.get("spec", {}).get("replicas", 0),
    }


def trim_partition(found: Object) -> Object:
    """With `partition`: read once and kept as it is read; None if this release cannot read it. Heartbeats are no news."""
    metadata = found["metadata"]
    plain = {"name": metadata["name"], "namespace": metadata["namespace"]}
    counted = {**found, "metadata": plain}
    if "status" in found:
        counted["status"] = {
            key: value for key, value in found["status"].items() if key != "lastHeartbeatTime"
        }
    try:
        partition = codec.read_partition(share_words(counted))
    except InvalidSpec as error:
        _log.warning("partition not read", name=metadata["name"], problem=str(error))
        partition = None
    return {"metadata": _metadata(found), "partition": partition}


def is_news(before: Object | None, now: Object | None) -> bool:
    """Whether what is kept of an object has changed; the server counts up versions for less."""
    if before is None or now is None:
        return before is not now
    return any(_without_version(before, name) != _without_version(now, name) for name in now)


def _without_version(kept: Object, name: str) -> Any:
    value = kept.get(name)
    if name == "metadata" and value is not None:
        return {**value, "resourceVersion": None}
    return value


def _template(found: Object) -> str | None:
    digest: str | None = found["metadata"].get("annotations", {}).get(TEMPLATE_ANNOTATION)
    return digest


def _metadata(found: Object, *more: str) -> Object:
    """Of the labels only those that say whose it is and of which revision: all would be a tenth of the operator's memory."""
    metadata, names = found["metadata"], ("name", "namespace", "resourceVersion", *more)
    given = metadata.get("labels", {})
    labels = {name: given[name] for name in _LABELS if name in given}
    shared: Object = share_words(
        {name: metadata[name] for name in names if name in metadata} | {"labels": labels}
    )
    return shared
