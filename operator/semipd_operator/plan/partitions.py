"""The SemiPDPartition of each pod: what its agent is asked for."""

from __future__ import annotations

from collections.abc import Mapping

from semipd_core.api import codec
from semipd_core.api.fields import API_VERSION
from semipd_core.api.partition import PodPartitionSpec
from semipd_core.api.service import ServiceSpec
from semipd_core.partition import Partition, Wish
from semipd_operator.plan.naming import labels
from semipd_operator.plan.observed import Observed, PodView
from semipd_operator.plan.pod import Manifest

MAX_MESSAGE = 1024


def build_partitions(
    observed: Observed, wishes: Mapping[str, Wish], usual: Wish, admitted: ServiceSpec | None
) -> list[Manifest]:
    """One per pod that is not leaving. `wishes`: by pod, where the cluster loop asks for something else than `usual`.

    `admitted`: the spec that the class lets be; None: pods keep the SLO and the policy that they were told, and a new one is
    told what another was.
    """
    return [
        build_partition(observed, pod, wishes.get(pod.name, usual), _told(observed, pod, admitted))
        for pod in observed.pods
        if not pod.is_leaving
    ]


def _told(observed: Observed, pod: PodView, admitted: ServiceSpec | None) -> Manifest:
    """What pods are told of the service beside their split, and follow without a restart."""
    if admitted is not None:
        return {"slo": codec.encode(admitted.slo), "policy": admitted.partition.policy.value}
    found = observed.partitions
    partition = found.get(pod.name) or (found[min(found)] if found else None)
    spec = codec.encode(partition.spec) if partition is not None else {}
    return {name: spec[name] for name in ("slo", "policy") if name in spec}


def build_partition(observed: Observed, pod: PodView, wish: Wish, told: Manifest) -> Manifest:
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
            **told,
        },
    }


def _split(partition: Partition) -> Manifest:
    return {"prefillPercent": partition.prefill_percent, "decodePercent": partition.decode_percent}


def is_asked(spec: PodPartitionSpec, wanted: Manifest) -> bool:
    """Whether the pod is asked for this already; words alone are no reason to ask again. `wanted`: by `build_partition`."""
    found = codec.encode(spec)
    return all(
        found.get(name) == wanted.get(name) for name in ("decisionID", "target", "band", "slo", "policy")
    )
