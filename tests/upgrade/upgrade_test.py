"""From what an earlier version left on a cluster to this one: what need not restart does not, and nothing is lost.

`tests/upgrade/<version>` is what that version's operator left; `take_snapshot.py` makes it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import upgrade_snapshot
from api_server import API_SERVER_IS_BUILT, ROOT
from installed import Kubectl, programs, render
from operator_process import Cluster, OperatorProcess, serving_agents
from running_service import free_port
from settled_service import changes
from upgrade_snapshot import KINDS, OURS, SNAPSHOTS, WORKLOADS

from semipd_cluster.control_plane import ControlPlane

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not API_SERVER_IS_BUILT, reason="the API server is not built: make cluster-build"),
]
VERSIONS = sorted(path.parent.name for path in SNAPSHOTS.glob("*/objects.json"))
ROUNDS = 5  # of the operator, after which nothing more is expected to move
ON_PURPOSE = (
    "A change of the pod template restarts every pod of every service when the operator is upgraded. If that is meant: "
    "run tests/upgrade/take_snapshot.py (its first line says how), and say in CHANGELOG.md what restarts and why."
)
# Made by 0.1.0, and wrong: the budget of a DaemonSet refuses every eviction.
TAKEN_AWAY = {("PodDisruptionBudget", "everywhere")}

Objects = Mapping[tuple[str, str], dict[str, Any]]


def losses(before: Any, after: Any, path: str = "") -> Iterator[str]:
    """Each field that is there no more."""
    if isinstance(before, dict):
        for key, value in before.items():
            if not isinstance(after, dict) or key not in after:
                yield f"{path}.{key}"
            else:
                yield from losses(value, after[key], f"{path}.{key}")
    elif isinstance(before, list) and isinstance(after, list):
        for number, (one, other) in enumerate(zip(before, after, strict=False)):
            yield from losses(one, other, f"{path}[{number}]")


def gist_of(service: Mapping[str, Any]) -> dict[str, Any]:
    """Of its status: what it says without times and words."""
    status = service["status"]
    conditions = {each["type"]: (each["status"], each["reason"]) for each in status["conditions"]}
    return {
        **{key: status.get(key) for key in ("replicas", "readyReplicas", "granted", "target")},
        **conditions,
    }


def restarts(before: Objects, after: Objects) -> list[str]:
    return [
        f"{kind} {name} spec.template{change}"
        for (kind, name), found in before.items()
        if kind in WORKLOADS and (kind, name) in after
        for change in changes(found["spec"]["template"], after[kind, name]["spec"]["template"])
    ]


def recreations(before: Objects, after: Objects) -> list[str]:
    return [
        f"{kind} {name}"
        for (kind, name), found in before.items()
        if (kind, name) not in TAKEN_AWAY
        and after.get((kind, name), {}).get("metadata", {}).get("uid") != found["metadata"]["uid"]
    ]


@pytest.mark.parametrize("version", VERSIONS)
def test_an_upgrade_restarts_and_loses_nothing(version: str, tmp_path: Path) -> None:
    snapshot = json.loads((SNAPSHOTS / version / "objects.json").read_text())
    with ControlPlane(tmp_path / "api-server", programs=programs()) as api, serving_agents() as agents:
        kubectl, cluster = Kubectl(api.kubeconfig), Cluster(api.kubeconfig)
        install(kubectl, (SNAPSHOTS / version / "crds.yaml").read_text())
        kubectl.done("create", "namespace", "team-a")
        upgrade_snapshot.put(cluster, snapshot)
        before = upgrade_snapshot.read(cluster)
        install(kubectl, render(ROOT / "crds"))
        kept = upgrade_snapshot.read(cluster)
        with OperatorProcess(api.kubeconfig, tmp_path, agents.port, free_port()) as operator:
            cluster.wait(lambda: "leads" in operator.log(), "the operator leads")
            cluster.wait(lambda: operator.metric("semipd_operator_rounds") >= ROUNDS, "it has gone on")
            cluster.wait(lambda: is_as_before(cluster, before), "the services say what they said")
            cluster.wait(
                lambda: not TAKEN_AWAY & upgrade_snapshot.read(cluster).keys(), "what is wrong has gone"
            )
            after = upgrade_snapshot.read(cluster)
        lost = [
            f"{kind} {name}{loss}"
            for (kind, name), found in before.items()
            if kind in OURS
            for part in ("spec", "status")
            for loss in losses(found.get(part, {}), kept[kind, name].get(part, {}), f" {part}")
        ]
        assert lost == [], (
            "fields of stored objects that the current CRDs drop: keep them, or convert them first"
        )
        for kind, name in before:
            if kind in OURS:
                cluster.client.replace(
                    cluster.client.get(KINDS[kind], name, namespace="team-a"), name=name, dry_run=True
                )
        cluster.client.close()
    assert restarts(before, after) == [], ON_PURPOSE
    assert recreations(before, after) == [], "deleted, or deleted and made again"
    for (kind, name), found in before.items():
        if kind == "SemiPDPartition":
            assert after[kind, name]["spec"] == found["spec"], "an upgrade moves no split"


def is_as_before(cluster: Cluster, before: Objects) -> bool:
    observe_workloads(cluster, before)
    now = upgrade_snapshot.read(cluster)
    return all(
        gist_of(now[kind, name]) == gist_of(found)
        for (kind, name), found in before.items()
        if kind == "SemiPDService"
    )


def observe_workloads(cluster: Cluster, before: Objects) -> None:
    """As their controllers would: to a Deployment another annotation, as of its owner's new UID, is another generation."""
    for (kind, name), found in before.items():
        if kind in WORKLOADS and found.get("status", {}).get("readyReplicas"):
            cluster.report_workload(kind, name, found["status"]["readyReplicas"])


def install(kubectl: Kubectl, crds: str) -> None:
    kubectl.apply_all(crds)
    kubectl.done("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")


def test_a_changed_template_is_named_with_both_values() -> None:
    def deployment(image: str, uid: str = "1") -> dict[str, Any]:
        template = {"spec": {"containers": [{"name": "engine", "image": image}]}}
        return {"metadata": {"uid": uid}, "spec": {"replicas": 1, "template": template}}

    key = ("Deployment", "chat")
    assert restarts({key: deployment("a")}, {key: deployment("b")}) == [
        "Deployment chat spec.template.spec.containers[0].image: 'a' -> 'b'"
    ]
    assert restarts({key: deployment("a")}, {key: deployment("a")}) == []
    assert recreations({key: deployment("a")}, {key: deployment("a", uid="2")}) == ["Deployment chat"]
    assert recreations({key: deployment("a")}, {}) == ["Deployment chat"]
