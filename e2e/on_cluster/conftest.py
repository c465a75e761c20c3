from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import installation
import pytest
import tiny_model
from cluster_under_test import REPOSITORY, ClusterUnderTest, cluster_under_test
from kubectl import Kubectl, wait_for

NAMESPACE = "team-a"


@pytest.fixture(scope="session")
def cluster() -> Iterator[ClusterUnderTest]:
    with cluster_under_test() as found:
        yield found


@pytest.fixture(scope="session")
def installed(cluster: ClusterUnderTest) -> ClusterUnderTest:
    """With the operator running."""
    installation.install(cluster, REPOSITORY / "out" / "e2e" / "overlay")
    return cluster


@pytest.fixture(scope="module")
def kubectl(installed: ClusterUnderTest, request: pytest.FixtureRequest) -> Iterator[Kubectl]:
    """In a namespace of the module's own, which enforces the Pod Security Standard `restricted`."""
    name = request.module.__name__.rpartition(".")[2].removesuffix("_test").replace("_", "-")
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
    installed.kubectl.apply(namespace)
    kubectl = replace(installed.kubectl, namespace=name)
    yield kubectl
    kubectl("delete", "semipdservices", "--all")
    wait_for(lambda: not kubectl.list("Pod", "semipd.io/service"), "pods go with their service", 180)
    installed.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="module")
def tiny_model_uri(kubectl: Kubectl, installed: ClusterUnderTest) -> str:
    """`pvc://` on our own nodes, whose files are this machine's."""
    if not installed.is_ours:
        return "builtin://smollm2-135m"
    directory: Path = kubectl.kubeconfig.parent / "model"
    tiny_model.write_model(directory)
    tiny_model.apply_volume(kubectl, directory)
    return tiny_model.URI
