"""Each check of `doctor`: what was found, the verdict, and that a remedy comes with what does not pass."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from semipd_core.api.service_class import DEFAULT_CLASS_ANNOTATION
from semipd_kubectl.errors import ApiError, Forbidden, NotThere
from semipd_kubectl.observe.objects import Fleet, build_fleet
from semipd_kubectl.reports.doctor.access import OPERATOR_NEEDS, OWNER_NEEDS, OWNER_WISHES
from semipd_kubectl.reports.doctor.findings import CRDS, Check, Findings
from semipd_kubectl.reports.doctor.gpus import requested_on, sharing_of
from semipd_kubectl.reports.doctor.installation import AGENT_POLICY, POLICIES
from semipd_kubectl.reports.doctor.report import build_doctor
from semipd_kubectl.reports.values import unix_s

NOW = "2026-11-21T12:00:00Z"
NOW_S = unix_s(NOW)
assert NOW_S is not None
FORBIDDEN = Forbidden("nodes is forbidden: User may not list", 403)
MISSING = NotThere("not found", 404)


def crd(*, established: str = "True", served: tuple[str, ...] = ("v1alpha1",)) -> dict[str, Any]:
    return {
        "spec": {"versions": [{"name": name, "served": True} for name in served]},
        "status": {"conditions": [{"type": "Established", "status": established}]},
    }


def deployment(ready: int, wanted: int = 2) -> dict[str, Any]:
    return {"spec": {"replicas": wanted}, "status": {"readyReplicas": ready}}


def lease(renewed: str = "2026-11-21T11:59:57.000000Z", holder: str = "op-1") -> dict[str, Any]:
    return {"spec": {"holderIdentity": holder, "renewTime": renewed, "leaseDurationSeconds": 15}}


def cls(name: str, *, default: bool) -> dict[str, Any]:
    annotations = {DEFAULT_CLASS_ANNOTATION: "true"} if default else {}
    return {
        "apiVersion": "semipd.io/v1alpha1",
        "kind": "SemiPDClass",
        "metadata": {"name": name, "annotations": annotations},
        "spec": {},
    }


def policy(name: str = AGENT_POLICY, **status: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {}, "status": status}


def binding(*actions: str, name: str = AGENT_POLICY) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"policyName": name, "validationActions": list(actions)}}


def node(name: str = "gpu-1", gpus: str = "4", **labels: str) -> dict[str, Any]:
    given = {"nvidia.com/gpu.sharing-strategy": "none", "nvidia.com/gpu.compute.major": "9"} | {
        "nvidia.com/" + key.replace("__", ".").replace("_", "-"): value for key, value in labels.items()
    }
    return {"metadata": {"name": name, "labels": given}, "status": {"allocatable": {"nvidia.com/gpu": gpus}}}


def pod(count: str, *, on: str = "gpu-1", phase: str = "Running", first: str = "0") -> dict[str, Any]:
    def container(gpus: str) -> dict[str, Any]:
        return {"resources": {"limits": {"nvidia.com/gpu": gpus}}}

    return {
        "metadata": {"name": "p"},
        "spec": {"nodeName": on, "containers": [container(count)], "initContainers": [container(first)]},
        "status": {"phase": phase},
    }


def fleet(*conditions: tuple[str, str], spec: dict[str, Any] | None = None) -> Fleet:
    given = {
        "apiVersion": "semipd.io/v1alpha1",
        "kind": "SemiPDService",
        "metadata": {"name": "chat", "namespace": "team-a"},
        "spec": {"model": {"uri": "builtin://smollm2-135m"}, **(spec or {})},
        "status": {
            "conditions": [{"type": kind, "status": value, "reason": "Reason"} for kind, value in conditions]
        },
    }
    return build_fleet([given], [], [], [])


RUNTIME = {"metadata": {"name": "nvidia"}}
HEALTHY = Findings(
    now_s=NOW_S,
    namespace="team-a",
    version={"major": "1", "minor": "36", "gitVersion": "v1.36.4"},
    crds=dict.fromkeys(CRDS, crd()),
    deployment=deployment(2),
    lease=lease(),
    classes=[cls("standard", default=True)],
    caller=dict.fromkeys((*OWNER_NEEDS, *OWNER_WISHES), True),
    operator=dict.fromkeys(OPERATOR_NEEDS, True),
    policies=[policy(name) for name in POLICIES],
    bindings=[binding("Deny", name=name) for name in POLICIES],
    nodes=[node()],
    pods=[],
    runtime_classes=[RUNTIME],
    fleet=fleet(("Ready", "True")),
)
CPU = {"resources": {"device": "CPU"}}


def check(name: str, **changes: Any) -> Check:
    found = [each for each in build_doctor(replace(HEALTHY, **changes)).checks if each.name == name]
    assert len(found) == 1, found
    return found[0]


def test_a_sound_installation_passes_every_check() -> None:
    report = build_doctor(HEALTHY)
    assert {each.verdict for each in report.checks} == {"Pass"}
    assert report.healthy


@pytest.mark.parametrize(
    ("name", "changes", "verdict", "words"),
    [
        pytest.param(
            "API server",
            {"version": {"major": "1", "minor": "29+", "gitVersion": "v1.29.3"}},
            "Fail",
            "too old",
            id="an old API server",
        ),
        pytest.param(
            "API server",
            {"version": {"major": "1", "minor": "30+", "gitVersion": "v1.30.0-gke"}},
            "Pass",
            "v1.30.0",
            id="a vendor's minor",
        ),
        pytest.param(f"CRD {CRDS[0]}", {"crds": {CRDS[0]: MISSING}}, "Fail", "not installed", id="no CRD"),
        pytest.param(
            f"CRD {CRDS[0]}",
            {"crds": {CRDS[0]: crd(established="False")}},
            "Fail",
            "not established",
            id="a CRD that is not established",
        ),
        pytest.param(
            f"CRD {CRDS[0]}",
            {"crds": {CRDS[0]: crd(served=("v1",))}},
            "Fail",
            "serves v1; this plugin knows v1alpha1",
            id="a CRD of another version",
        ),
        pytest.param(
            f"CRD {CRDS[0]}",
            {"crds": {CRDS[0]: FORBIDDEN}},
            "Unknown",
            "forbidden",
            id="CRDs that may not be read",
        ),
        pytest.param(
            "operator",
            {"deployment": MISSING},
            "Fail",
            "no Deployment semipd-system/semipd-operator",
            id="no operator",
        ),
        pytest.param("operator", {"deployment": deployment(0)}, "Fail", "0 of 2", id="no operator is ready"),
        pytest.param("operator", {"deployment": deployment(1)}, "Warn", "1 of 2", id="one of two is ready"),
        pytest.param("operator lease", {"lease": MISSING}, "Fail", "no operator has ever led", id="no lease"),
        pytest.param(
            "operator lease",
            {"lease": lease("2026-11-21T11:59:30Z")},
            "Fail",
            "30 s ago, it lasts 15 s",
            id="an old lease",
        ),
        pytest.param(
            "operator lease", {"lease": lease(holder="")}, "Fail", "nobody holds it", id="a lease given back"
        ),
        pytest.param(
            "operator lease", {"lease": lease("2026-11-21T12:00:05Z")}, "Pass", "0 s ago", id="a clock ahead"
        ),
        pytest.param(
            "operator's rights",
            {"operator": {**HEALTHY.operator, OPERATOR_NEEDS[0]: False}},
            "Fail",
            str(OPERATOR_NEEDS[0]),
            id="a role that lags behind",
        ),
        pytest.param(
            "operator's rights",
            {"operator": FORBIDDEN},
            "Unknown",
            "forbidden",
            id="reviews that may not be made",
        ),
        pytest.param(
            "agents' policy", {"policies": []}, "Fail", "may write the partition of any pod", id="no policy"
        ),
        pytest.param(
            "agents' policy", {"bindings": []}, "Fail", "not bound", id="a policy that is not bound"
        ),
        pytest.param(
            "agents' policy",
            {"bindings": [binding("Audit")]},
            "Fail",
            "not bound with Deny",
            id="a policy that only warns",
        ),
        pytest.param(
            "classes' policy",
            {"policies": [policy()]},
            "Warn",
            "refused by the operator alone",
            id="no policy of classes",
        ),
        pytest.param(
            "agents' policy",
            {"policies": [policy(typeChecking={"expressionWarnings": [{"warning": "no such field"}]})]},
            "Warn",
            "no such field",
            id="a policy with warnings",
        ),
        pytest.param("default class", {"classes": []}, "Warn", "no SemiPDClass", id="no class"),
        pytest.param(
            "default class",
            {"classes": [cls("a", default=False)]},
            "Warn",
            "no class is marked",
            id="no default class",
        ),
        pytest.param(
            "default class",
            {"classes": [cls("b", default=True), cls("a", default=True)]},
            "Fail",
            "a, b",
            id="two default classes",
        ),
        pytest.param(
            "your rights",
            {"caller": {**HEALTHY.caller, OWNER_NEEDS[0]: False}},
            "Fail",
            "you may not get semipdservices.semipd.io",
            id="no right to own",
        ),
        pytest.param(
            "rights for looking",
            {"caller": {**HEALTHY.caller, OWNER_WISHES[1]: False}},
            "Warn",
            "no live figures",
            id="no right to the pod proxy",
        ),
        pytest.param(
            "GPUs",
            {"nodes": [node(gpus="0")], "fleet": fleet(("Ready", "True"), spec=CPU)},
            "Warn",
            "only services on the CPU",
            id="no GPU, none needed",
        ),
        pytest.param(
            "GPUs",
            {"nodes": [], "fleet": fleet(("Ready", "True"))},
            "Fail",
            "team-a/chat need it",
            id="no GPU, one needed",
        ),
        pytest.param("GPUs", {"pods": [pod("3")]}, "Pass", "4 on gpu-1; free: 1 (gpu-1 1)", id="a free GPU"),
        pytest.param("GPUs", {"pods": [pod("4")]}, "Warn", "free: 0", id="no free GPU"),
        pytest.param(
            "GPUs", {"pods": FORBIDDEN}, "Pass", "what is free is not known", id="pods that may not be read"
        ),
        pytest.param(
            "GPUs for MPS",
            {"nodes": [node(gpu__sharing_strategy="mps")]},
            "Fail",
            "gpu-1 (mps)",
            id="MPS by the device plugin",
        ),
        pytest.param(
            "GPUs for MPS",
            {"nodes": [node(gpu__compute__major="6")]},
            "Fail",
            "older than Volta",
            id="an old GPU",
        ),
        pytest.param(
            "GPUs for MPS",
            {"nodes": [{"metadata": {"name": "n"}, "status": {"allocatable": {"nvidia.com/gpu": "1"}}}]},
            "Warn",
            "no labels",
            id="no feature discovery",
        ),
        pytest.param(
            "runtime class", {"runtime_classes": []}, "Warn", "no RuntimeClass nvidia", id="no runtime class"
        ),
        pytest.param(
            "runtime class",
            {"fleet": fleet(("Ready", "True"), spec={"scheduling": {"runtimeClassName": "kata"}})},
            "Fail",
            "kata",
            id="a runtime class that is named and missing",
        ),
        pytest.param(
            "runtime class",
            {"runtime_classes": [], "nodes": [], "fleet": fleet(("Ready", "True"), spec=CPU), "pods": []},
            "Pass",
            "none needed",
            id="no runtime class without GPUs",
        ),
        pytest.param(
            "service team-a/chat",
            {"fleet": fleet()},
            "Fail",
            "no operator has looked",
            id="a service that nobody has seen",
        ),
        pytest.param(
            "service team-a/chat",
            {"fleet": fleet(("EnginesReady", "False"))},
            "Fail",
            "EnginesReady Reason",
            id="a service that is blocked",
        ),
        pytest.param(
            "service team-a/chat",
            {"fleet": fleet(("SLOMet", "False"))},
            "Warn",
            "SLOMet",
            id="a missed SLO is no fault of the installation",
        ),
        pytest.param(
            "services",
            {"fleet": Fleet(unreadable=("a/b cannot be read",))},
            "Fail",
            "cannot be read",
            id="a service that cannot be read",
        ),
        pytest.param(
            "services",
            {"fleet": ApiError("cannot reach")},
            "Unknown",
            "cannot reach",
            id="services that cannot be listed",
        ),
    ],
)
def test_verdicts(name: str, changes: dict[str, Any], verdict: str, words: str) -> None:
    found = check(name, **changes)
    assert found.verdict == verdict
    assert words in found.message
    assert (found.remedy == "") is (verdict == "Pass")
    assert build_doctor(replace(HEALTHY, **changes)).healthy is (verdict != "Fail")


@pytest.mark.parametrize(
    ("pods", "requested"),
    [
        pytest.param([pod("1"), pod("2")], 3, id="running pods"),
        pytest.param([pod("1", phase="Succeeded"), pod("1", phase="Failed")], 0, id="pods that are over"),
        pytest.param([pod("1", on="gpu-2")], 0, id="pods elsewhere"),
        pytest.param([pod("1", first="2")], 2, id="an init container that needs more"),
        pytest.param(
            [{"metadata": {}, "spec": {"nodeName": "gpu-1", "containers": [{}]}}], 0, id="no resources"
        ),
    ],
)
def test_gpus_that_pods_hold(pods: list[dict[str, Any]], requested: int) -> None:
    assert requested_on("gpu-1", pods) == requested


@pytest.mark.parametrize(
    ("labels", "sharing"),
    [
        ({}, None),
        ({"nvidia.com/gpu.replicas": "1"}, None),
        ({"nvidia.com/gpu.replicas": "4"}, "4 replicas"),
        ({"nvidia.com/mps.capable": "true"}, "mps"),
        ({"nvidia.com/gpu.sharing-strategy": "time-slicing", "nvidia.com/gpu.replicas": "4"}, "time-slicing"),
    ],
)
def test_sharing_by_the_device_plugin(labels: dict[str, str], sharing: str | None) -> None:
    assert sharing_of(labels) == sharing
