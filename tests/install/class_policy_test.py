"""What a class forbids is refused at apply, in the words that the operator would use; the operator keeps the last word."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from api_server import API_SERVER_IS_BUILT
from fleet_objects import service, service_class
from installed import Kubectl, installed_api_server, until_refused

from semipd_core.api.service_class import DEFAULT_CLASS_ANNOTATION
from semipd_operator.plan.guard_rails import GpuUse, class_defect, gpus_per_pod

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not API_SERVER_IS_BUILT, reason="the API server is not built: make cluster-build"),
]
CLASSES: dict[str, dict[str, Any]] = {
    "standard": {"allowedIsolations": ["MPS", "GreenContext"], "gpuBudget": 4},
    "narrow": {"bounds": {"prefillMinPercent": 50, "prefillMaxPercent": 70, "decodeMinPercent": 60}},
    "cpu": {"device": "CPU", "gpuBudget": 0},
    "open": {},
}
SEEN_BY = (  # what is refused once admission knows the class
    {"classRef": {"name": "standard"}, "partition": {"isolation": "Unified"}},
    {"classRef": {"name": "narrow"}, "partition": {"bounds": {"prefillMinPercent": 80}}},
    {"classRef": {"name": "cpu"}, "resources": {"device": "CUDA"}},
)
CREATE = ("create", "--dry-run=server", "-f", "-")


def class_manifest(name: str, spec: dict[str, Any] | None, annotations: dict[str, str]) -> dict[str, Any]:
    metadata = {"name": name, "annotations": annotations}
    found = {"apiVersion": "semipd.io/v1alpha1", "kind": "SemiPDClass", "metadata": metadata}
    return found if spec is None else found | {"spec": spec}


def manifest(name: str = "chat", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "semipd.io/v1alpha1",
        "kind": "SemiPDService",
        "metadata": {"name": name, "namespace": "team-a"},
        "spec": {"model": {"uri": "builtin://smollm2-135m"}, **spec},
    }


@pytest.fixture(scope="module")
def kubectl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubectl]:
    with installed_api_server(tmp_path_factory.mktemp("api-server"), ("cluster",)) as (_, admin):
        for name, spec in CLASSES.items():
            admin.create(class_manifest(name, spec, {}))
        admin.create(class_manifest("empty", None, {}))
        for spec in SEEN_BY:
            until_refused(admin, *CREATE, given=manifest(**spec))
        yield admin


def operators_words(**spec: Any) -> str | None:
    """Of a service that has no workload yet, in a namespace without another."""
    chat, cls = service(**spec), service_class(**CLASSES[spec["classRef"]["name"]]).spec
    wanted = gpus_per_pod(chat.spec, cls) * (1 if chat.spec.replicas is None else chat.spec.replicas)
    defect = class_defect(chat, cls, GpuUse(wanted=wanted, deployed=0, others=0))
    return None if defect is None else str(defect)


def in_class(name: str, **spec: Any) -> dict[str, Any]:
    return {"classRef": {"name": name}, **spec}


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(
            in_class("standard", partition={"isolation": "Unified"}), id="an isolation that is not allowed"
        ),
        pytest.param(in_class("standard", partition={"isolation": "None"}), id="another one"),
        pytest.param(in_class("narrow", partition={"bounds": {"prefillMinPercent": 71}}), id="prefill above"),
        pytest.param(in_class("narrow", partition={"bounds": {"prefillMaxPercent": 49}}), id="prefill below"),
        pytest.param(
            in_class("narrow", partition={"bounds": {"decodeMinPercent": 10, "decodeMaxPercent": 59}}),
            id="decode below",
        ),
        pytest.param(in_class("standard", replicas=5), id="more replicas than GPUs"),
        pytest.param(
            in_class("standard", replicas=1, resources={"gpusPerEngine": 4, "enginesPerPod": 2}),
            id="a pod with more GPUs than the budget",
        ),
        pytest.param(in_class("cpu", resources={"device": "CUDA"}), id="a GPU where there are none"),
    ],
)
def test_what_the_class_forbids_is_refused_at_apply_in_the_operators_words(
    spec: dict[str, Any], kubectl: Kubectl
) -> None:
    words = operators_words(**spec)
    assert words is not None
    said = kubectl.refused(*CREATE, given=manifest(**spec))
    assert "ValidatingAdmissionPolicy 'semipd-service-keeps-to-its-class'" in said
    assert said.rstrip().endswith(words)


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(in_class("standard"), id="nothing chosen"),
        pytest.param(in_class("standard", partition={"isolation": "Auto"}), id="Auto"),
        pytest.param(
            in_class("standard", partition={"isolation": "MPS"}, replicas=4), id="all of the budget"
        ),
        pytest.param(
            in_class("narrow", partition={"bounds": {"prefillMinPercent": 70}}), id="bounds that touch"
        ),
        pytest.param(
            in_class("narrow", partition={"isolation": "Unified"}), id="what only another class forbids"
        ),
        pytest.param(in_class("cpu", replicas=9), id="no GPU at all, by the class's device"),
        pytest.param(
            in_class("standard", resources={"device": "CPU"}, replicas=9), id="no GPU, by its own device"
        ),
        pytest.param(
            in_class("open", replicas=99, partition={"isolation": "None"}), id="a class without limits"
        ),
    ],
)
def test_what_the_operator_admits_is_taken(spec: dict[str, Any], kubectl: Kubectl) -> None:
    assert operators_words(**spec) is None
    kubectl.done(*CREATE, given=manifest(**spec))


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(
            {"partition": {"isolation": "Unified"}, "replicas": 99}, id="no class, and none is the default"
        ),
        pytest.param(in_class("missing", partition={"isolation": "Unified"}), id="a class that is not there"),
        pytest.param(in_class("empty", partition={"isolation": "Unified"}), id="a class without a spec"),
        pytest.param(
            in_class("standard", placement="EveryNode", resources={"gpusPerEngine": 8}),
            id="as many pods as nodes",
        ),
    ],
)
def test_what_cannot_be_judged_here_is_left_to_the_operator(spec: dict[str, Any], kubectl: Kubectl) -> None:
    kubectl.done(*CREATE, given=manifest(**spec))


def test_the_default_class_holds_for_a_service_that_names_none(kubectl: Kubectl) -> None:
    mark = f"{DEFAULT_CLASS_ANNOTATION}="
    kubectl.done("annotate", "semipdclass/standard", f"{mark}true")
    try:
        said = until_refused(kubectl, *CREATE, given=manifest(partition={"isolation": "Unified"}))
        assert (
            "spec.partition.isolation: got 'Unified', allowed: one of Auto, MPS, GreenContext (by the class)"
            in said
        )
        kubectl.done(*CREATE, given=manifest(**in_class("open", partition={"isolation": "Unified"})))
    finally:
        kubectl.done("annotate", "semipdclass/standard", f"{mark[:-1]}-")


def test_a_class_that_becomes_stricter_blocks_no_other_change_of_its_services(kubectl: Kubectl) -> None:
    kubectl.create(class_manifest("turning", {}, {}))
    spec = in_class("turning", partition={"isolation": "Unified"}, replicas=3)
    kubectl.create(manifest("grown", **spec))
    strict = {"spec": {"allowedIsolations": ["MPS"], "gpuBudget": 2}}
    kubectl.done("patch", "semipdclass/turning", "--type=merge", "-p", json.dumps(strict))
    until_refused(kubectl, *CREATE, given=manifest(**spec))

    def patch(**changed: Any) -> tuple[str, ...]:
        return (
            "patch",
            "semipdservice/grown",
            "-n",
            "team-a",
            "--type=merge",
            "-p",
            json.dumps({"spec": changed}),
        )

    kubectl.done(*patch(slo={"ttft": {"targetMilliseconds": 300}}))
    kubectl.done(*patch(replicas=2))
    assert "got '4 GPUs', allowed: at most 2 of the 2" in kubectl.refused(*patch(replicas=4))
    assert "got 'None', allowed: one of Auto, MPS" in kubectl.refused(*patch(partition={"isolation": "None"}))


def test_a_cluster_without_classes_takes_every_service(tmp_path_factory: pytest.TempPathFactory) -> None:
    with installed_api_server(tmp_path_factory.mktemp("without-classes"), ("cluster",)) as (_, admin):
        admin.done(*CREATE, given=manifest(**SEEN_BY[0]))
