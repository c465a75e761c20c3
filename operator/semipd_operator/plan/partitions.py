"""The SemiPDPartition of each pod: what its agent is asked for."""

from __future__ import annotations

from collections.abc import Mapping

from semipd_core.api import codec
from semipd_core.api.fields import API_VERSION
from semipd_core.api.partition import PodPartitionSpec
from semipd_core.partition import Partition, Wish
from semipd_operator.plan.naming import labels
from semipd_operator.plan.observed import Observed, PodView
from semipd_operator.plan.pod import Manifest

MAX_MESSAGE = 1024


def build_partitions(observed: Observed, wishes: Mapping[str, Wish], usual: Wish) -> list[Manifest]:
    """One per pod that is not leaving. `wishes`: by pod, where the cluster loop asks for something else than `usual`."""
    return [
        build_partition(observed, pod, wishes.get(pod.name, usual))
        for pod in observed.pods
        if not pod.is_leaving
    ]


def build_partition(observed: Observed, pod: PodView, wish: Wish) -> Manifest:
    """Owned by the pod, so that it goes with it."""
    metadata = observed.service.metadata
    return {
        "apiVersion": API_VERSION,
        "kind": "SemiPDPartition",
        "metadata": {
            "name": pod.name,
            "namespace": metadata.namespace,
            "labels": labels(metadata.name),
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "Pod", "name": pod.name, "uid": pod.uid, "controller": True}
            ],
        },
        "spec": {
            "target": _split(wish.target),
            "band": {
                "prefillMinPercent": wish.band.prefill_min_percent,
                "prefillMaxPercent": wish.band.prefill_max_percent,
                "decodeMinPercent": wish.band.decode_min_percent,
                "decodeMaxPercent": wish.band.decode_max_percent,
            },
            "decisionID": wish.decision_id,
            "reason": wish.reason,
            "message": wish.message[:MAX_MESSAGE],
        },
    }


def _split(partition: Partition) -> Manifest:
    return {"prefillPercent": partition.prefill_percent, "decodePercent": partition.decode_percent}


def is_asked(spec: PodPartitionSpec, wanted: Manifest) -> bool:
    """Whether the pod is asked for this already; words alone are no reason to ask again. `wanted`: by `build_partition`."""
    found = codec.encode(spec)
    return all(found.get(name) == wanted[name] for name in ("decisionID", "target", "band"))
