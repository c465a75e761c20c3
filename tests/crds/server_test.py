"""A real API server takes the CRDs, refuses what must be refused, and shows and scales what is there."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from api_server import API_SERVER_IS_BUILT, control_plane_with_crds
from bad_classes_and_partitions import CLASSES, PARTITIONS
from bad_manifest import BASES, Bad
from bad_services import SERVICES
from changed_manifest import changed
from crd_files import DIRECTORY

from semipd_cluster.control_plane import ControlPlane

pytestmark = pytest.mark.skipif(
    not API_SERVER_IS_BUILT, reason="the API server is not built: make cluster-build"
)

Manifest = Mapping[str, Any]
SPLIT = {"prefillPercent": 80, "decodePercent": 100}
CONDITION = {
    "type": "Ready",
    "status": "False",
    "reason": "EnginesStarting",
    "lastTransitionTime": "2026-01-01T00:00:00Z",
}


class Kubectl:
    """What people and their pipelines ask the API server through."""

    def __init__(self, api: ControlPlane) -> None:
        self._command = [str(api.programs / "kubectl"), "--kubeconfig", str(api.kubeconfig)]

    def __call__(self, *arguments: str, given: Manifest | None = None) -> subprocess.CompletedProcess[str]:
        text = None if given is None else json.dumps(given)
        command = [*self._command, *arguments]
        return subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=60)

    def done(self, *arguments: str, given: Manifest | None = None) -> str:
        result = self(*arguments, given=given)
        assert result.returncode == 0, result.stderr
        return result.stdout

    def patch_chat(self, patch: Manifest, *more: str) -> None:
        self.done("patch", "spd", "crd-contract", "--type=merge", *more, "-p", json.dumps(patch))


@pytest.fixture(scope="module")
def kubectl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubectl]:
    with control_plane_with_crds(tmp_path_factory.mktemp("api-server")) as api:
        yield Kubectl(api)


@pytest.fixture
def chat(kubectl: Kubectl) -> Iterator[dict[str, Any]]:
    """A service that is really there."""
    manifest = changed(BASES["SemiPDService"], {"metadata.name": "crd-contract"})
    kubectl.done("create", "-f", "-", given=manifest)
    yield manifest
    kubectl.done("delete", "spd", "crd-contract", "--wait=false")


@pytest.mark.parametrize("bad", [*SERVICES, *CLASSES, *PARTITIONS], ids=lambda bad: f"{bad.kind}: {bad.id}")
def test_a_bad_manifest_is_refused(kubectl: Kubectl, bad: Bad) -> None:
    result = kubectl("create", "--dry-run=server", "-f", "-", given=bad.manifest)
    assert result.returncode != 0
    assert bad.path in result.stderr
    assert bad.words in result.stderr


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        pytest.param("SemiPDService", {}, id="the smallest service"),
        pytest.param("SemiPDClass", {}, id="the smallest class"),
        pytest.param("SemiPDPartition", {}, id="the smallest partition"),
        pytest.param("SemiPDService", {"spec.placement": "EveryNode"}, id="every node"),
        pytest.param("SemiPDService", {"spec.partition": {"initial": SPLIT}}, id="initial without bounds"),
        pytest.param(
            "SemiPDService", {"spec.partition": {"initial": SPLIT, "bounds": {}}}, id="empty bounds"
        ),
        pytest.param(
            "SemiPDService", {"spec.rollout": {}, "spec.slo": {}, "spec.drain": {}}, id="empty objects"
        ),
        pytest.param("SemiPDService", {"spec.rollout": {"maxUnavailable": 0}}, id="surge by default"),
        pytest.param(
            "SemiPDService", {"spec.autoscale": {"maxReplicas": 1}}, id="an autoscaler with its default"
        ),
        pytest.param("SemiPDService", {"spec.resources": {"cpu": 2, "memory": ".5Gi"}}, id="quantities"),
        pytest.param("SemiPDService", {"spec.model.uri": "hf://a/b@refs/pr/1"}, id="a revision"),
        pytest.param(
            "SemiPDService", {"spec.model.uri": "pvc://claim/mod\u00e8le"}, id="a path that is no ASCII"
        ),
        pytest.param(
            "SemiPDService",
            {
                "spec.scheduling": {
                    "nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-H200", "pool": ""},
                    "tolerations": [
                        {"operator": "Exists"},
                        {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"},
                        {
                            "key": "maintenance",
                            "operator": "Exists",
                            "effect": "NoExecute",
                            "tolerationSeconds": 30,
                        },
                    ],
                    "imagePullSecrets": [{"name": "a"}, {"name": "b"}],
                }
            },
            id="where its pods may run",
        ),
        pytest.param("SemiPDService", {"spec.model.uri": "image://r.io:5000/m@sha256:0"}, id="an image"),
    ],
)
def test_a_good_manifest_is_taken_as_it_is(
    kubectl: Kubectl, kind: str, changes: Mapping[str, object]
) -> None:
    manifest = changed(BASES[kind], changes)
    taken = json.loads(kubectl.done("create", "--dry-run=server", "-o", "json", "-f", "-", given=manifest))
    assert taken["spec"] == manifest["spec"]


@pytest.mark.parametrize("file", ["semipdservice.yaml", "h200.yaml", "cpu-class.yaml", "gpu-class.yaml"])
def test_an_example_is_taken(kubectl: Kubectl, file: str) -> None:
    path = DIRECTORY.parent / "examples" / file
    result = kubectl("create", "--dry-run=server", "-f", str(path))
    assert result.returncode == 0 or 'namespaces "team-a" not found' in result.stderr


def test_the_placement_cannot_change(kubectl: Kubectl, chat: Manifest) -> None:
    every_node = json.dumps({"spec": {"placement": "EveryNode"}})
    refused = kubectl("patch", "spd", "crd-contract", "--type=merge", "-p", every_node)
    assert refused.returncode != 0
    assert "spec.placement" in refused.stderr
    assert "got EveryNode, allowed: Replicas, as it was created" in refused.stderr
    assert "Create a second SemiPDService" in refused.stderr
    kubectl.patch_chat({"spec": {"placement": "Replicas"}})


def test_the_number_of_pods_is_scaled(kubectl: Kubectl, chat: Manifest) -> None:
    kubectl.patch_chat({"spec": {"replicas": 1}})
    kubectl.done("scale", "spd/crd-contract", "--replicas=4")
    status = {"replicas": 3, "selector": "semipd.io/service=crd-contract"}
    kubectl.patch_chat({"status": status}, "--subresource=status")
    scale = json.loads(kubectl.done("get", "spd", "crd-contract", "--subresource=scale", "-o", "json"))
    assert scale["spec"] == {"replicas": 4}
    assert scale["status"] == status


def test_a_service_is_shown(kubectl: Kubectl, chat: Manifest) -> None:
    status = {
        "mode": "Auto",
        "granted": SPLIT,
        "slo": {"attainmentPermille": 973, "ttftMilliseconds": 380, "tpotMilliseconds": 41},
        "conditions": [CONDITION, CONDITION | {"type": "SLOMet", "status": "True", "reason": "Met"}],
    }
    kubectl.patch_chat({"status": status}, "--subresource=status")
    heads, values = kubectl.done("get", "spd", "crd-contract").splitlines()
    assert " ".join(heads.split()) == "NAME MODEL MODE PREFILL DECODE TTFT TPOT SLO READY REASON AGE"
    shown = [
        "crd-contract",
        "builtin://smollm2-135m",
        "Auto",
        "80",
        "100",
        "380",
        "41",
        "True",
        "False",
        "EnginesStarting",
    ]
    assert values.split()[:-1] == shown
