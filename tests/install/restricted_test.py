"""Every pod that this project makes is taken by a namespace that enforces the Pod Security Standard `restricted`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from api_server import API_SERVER_IS_BUILT
from installed import MANIFESTS, Kubectl, installed_api_server, render
from rendered_children import SERVICES, children_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not API_SERVER_IS_BUILT, reason="the API server is not built: make cluster-build"),
]
CREATE = ("create", "--dry-run=server", "-f", "-")


@pytest.fixture(scope="module")
def kubectl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubectl]:
    with installed_api_server(tmp_path_factory.mktemp("api-server")) as (_, admin):
        standard = "pod-security.kubernetes.io/enforce=restricted"
        admin.done("label", "namespace", "team-a", standard)
        yield admin


def pod_of(workload: dict[str, Any], namespace: str) -> dict[str, Any]:
    template = workload["spec"]["template"]
    metadata = {"name": "tried", "namespace": namespace, "labels": template["metadata"]["labels"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


@pytest.mark.parametrize("name", SERVICES)
def test_an_engine_pod_is_taken(name: str, kubectl: Kubectl) -> None:
    workload = next(each for each in children_of(name) if each["kind"] in ("Deployment", "DaemonSet"))
    kubectl.done(*CREATE, given=pod_of(workload, "team-a"))


def test_the_operators_pod_is_taken(kubectl: Kubectl) -> None:
    found = yaml.safe_load_all(render(MANIFESTS / "default"))
    operator = next(each for each in found if each["kind"] == "Deployment")
    kubectl.done(*CREATE, given=pod_of(operator, "semipd-system"))


def test_a_pod_with_privileges_is_not(kubectl: Kubectl) -> None:
    """The namespaces do enforce it."""
    container = {"name": "root", "image": "root", "securityContext": {"privileged": True}}
    for namespace in ("team-a", "semipd-system"):
        metadata = {"name": "root", "namespace": namespace}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container]}}
        assert 'violates PodSecurity "restricted:latest"' in kubectl.refused(*CREATE, given=pod)


@pytest.mark.parametrize("name", SERVICES)
def test_every_child_is_taken_as_it_is(name: str, kubectl: Kubectl) -> None:
    """Without a warning, which the API server gives for fields that it does not know."""
    for child in children_of(name):
        if child["apiVersion"].startswith(("monitoring.coreos.com", "inference.networking.k8s.io")):
            continue
        result = kubectl(*CREATE, given=child)
        assert result.returncode == 0, result.stderr
        assert "Warning" not in result.stderr
