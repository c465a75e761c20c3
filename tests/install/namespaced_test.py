"""Operators of one namespace each, under tokens of their own accounts: they serve it, and see nothing of another."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from api_server import API_SERVER_IS_BUILT
from installed import MANIFESTS, Kubectl, installed_api_server, ready_pod, render, until
from operator_process import Agents, OperatorProcess, service_manifest, serving_agents
from running_service import free_port

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not API_SERVER_IS_BUILT, reason="the API server is not built: make cluster-build"),
]
TEAMS = ("team-a", "team-b")
CLASS_STATUS = (
    "patch",
    "semipdclass",
    "small",
    "--subresource=status",
    "--type=merge",
    "-p",
    '{"status": {}}',
)


def render_for(namespace: str, directory: Path) -> str:
    """The kustomization with its one line changed, as its comment says."""
    copied = directory / "manifests"
    shutil.copytree(MANIFESTS, copied, symlinks=True)
    file = copied / "namespaced" / "kustomization.yaml"
    file.write_text(file.read_text().replace("namespace: semipd-team\n", f"namespace: {namespace}\n"))
    return render(file.parent)


class Team:
    """A namespace with its operator."""

    def __init__(self, admin: Kubectl, namespace: str, directory: Path, agents: Agents) -> None:
        admin.apply_all(render_for(namespace, directory))
        self.namespace = namespace
        self.account = admin.as_account("semipd-operator", namespace, directory / "kubeconfig")
        self.operator = OperatorProcess(
            self.account.kubeconfig,
            directory,
            agents.port,
            free_port(),
            f"operator-of-{namespace}",
            namespace=namespace,
            watch_namespace=namespace,
        )


@pytest.fixture(scope="module")
def admin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubectl]:
    directory = tmp_path_factory.mktemp("api-server")
    with installed_api_server(directory, ("cluster",), namespaces=TEAMS) as (_, kubectl):
        yield kubectl


@pytest.fixture(scope="module")
def teams(admin: Kubectl, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Team]]:
    with ExitStack() as running:
        agents = running.enter_context(serving_agents())
        found = {name: Team(admin, name, tmp_path_factory.mktemp(name), agents) for name in TEAMS}
        for team in found.values():
            running.enter_context(team.operator)
        yield found


def apply_service(admin: Kubectl, name: str, namespace: str, **spec: object) -> None:
    manifest = service_manifest(name, replicas=1, **spec)
    manifest["metadata"]["namespace"] = namespace
    admin.create(manifest)


@pytest.mark.parametrize("namespace", TEAMS)
def test_an_operator_of_one_namespace_serves_it(
    namespace: str, admin: Kubectl, teams: dict[str, Team]
) -> None:
    apply_service(admin, "chat", namespace)
    until(lambda: admin.is_there("deployment", "chat", "-n", namespace), "the Deployment is there")
    ready_pod(admin, "chat", "chat-1", namespace)
    until(
        lambda: admin.is_there("semipdpartition", "chat-1", "-n", namespace),
        "the pod has its partition: the agents' policy takes this operator for what it is",
    )
    until(
        lambda: admin.get("semipdservice", "chat", "-n", namespace).get("status", {}).get("conditions"),
        "the status is written",
    )
    assert "Forbidden" not in teams[namespace].operator.log()


def test_each_leads_by_a_lease_of_its_own(admin: Kubectl, teams: dict[str, Team]) -> None:
    for namespace in TEAMS:
        lease = until(
            lambda namespace=namespace: (
                admin("get", "lease", "semipd-operator", "-n", namespace).returncode == 0
                and admin.get("lease", "semipd-operator", "-n", namespace)
            ),
            "the Lease is there",
        )
        assert lease["spec"]["holderIdentity"] == f"operator-of-{namespace}"


def test_classes_hold_for_it_too(admin: Kubectl, teams: dict[str, Team]) -> None:
    """A budget of the other services' GPUs, which admission cannot judge."""
    cls = {
        "apiVersion": "semipd.io/v1alpha1",
        "kind": "SemiPDClass",
        "metadata": {"name": "small"},
        "spec": {"gpuBudget": 1},
    }
    admin.create(cls)
    spec = {"classRef": {"name": "small"}, "resources": {"device": "CUDA"}}
    apply_service(admin, "fits", "team-a", **spec)
    until(lambda: admin.is_there("deployment", "fits", "-n", "team-a"), "the first fits")
    apply_service(admin, "second", "team-a", **spec)

    def refusal() -> str:
        status = admin.get("semipdservice", "second", "-n", "team-a").get("status", {})
        return next(
            (each["message"] for each in status.get("conditions", []) if each["type"] == "Degraded"), ""
        )

    said = until(refusal, "the operator judges it")
    assert (
        "spec.replicas: got '1 GPUs', allowed: at most 0 of the 1 that the class allows in a namespace"
        in said
    )
    assert not admin.is_there("deployment", "second", "-n", "team-a")


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("get", "semipdservices", "-n", "team-b"), id="another namespace's services"),
        pytest.param(("get", "semipdpartitions", "-n", "team-b"), id="another namespace's partitions"),
        pytest.param(("get", "pods", "-n", "team-b"), id="another namespace's pods"),
        pytest.param(("get", "semipdservices", "--all-namespaces"), id="all services"),
        pytest.param(("get", "namespaces"), id="namespaces"),
        pytest.param(CLASS_STATUS, id="a class's status, in which it would count its own services alone"),
        pytest.param(("get", "crd"), id="CustomResourceDefinitions"),
        pytest.param(("get", "secrets", "-n", "team-a"), id="secrets, also of its own namespace"),
        pytest.param(("delete", "semipdservice", "chat", "-n", "team-a"), id="its own services' life"),
    ],
)
def test_it_has_no_right_to(arguments: tuple[str, ...], teams: dict[str, Team]) -> None:
    assert "Error from server (Forbidden)" in teams["team-a"].account.refused(*arguments)


def test_an_operator_leaves_the_services_of_another_namespace_alone(
    admin: Kubectl, teams: dict[str, Team]
) -> None:
    """Also when nobody else looks after them."""
    teams["team-b"].operator.__exit__()
    apply_service(admin, "late", "team-b")
    apply_service(admin, "late", "team-a")
    until(lambda: admin.is_there("deployment", "late", "-n", "team-a"), "its own is served")
    assert not admin.is_there("deployment", "late", "-n", "team-b")
    assert "status" not in admin.get("semipdservice", "late", "-n", "team-b")
