"""CRDs, operator and namespaces go in any order: nothing hangs, and a running operator stays alive and takes up what comes back.

With Kubernetes' own controllers: they delete namespaces and collect garbage.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from api_server import API_SERVER_IS_BUILT
from installed import (
    MANIFESTS,
    OPERATOR_NAMESPACE,
    ROOT,
    Kubectl,
    installed_api_server,
    render,
    until,
)
from operator_process import OperatorProcess, service_manifest, serving_agents
from running_service import free_port

from semipd_cluster.controllers import build_commands
from semipd_cluster.processes import running

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not API_SERVER_IS_BUILT, reason="the API server is not built: make cluster-build"),
]
GOES_S = 120.0  # the garbage collector learns of new kinds every 30 s
CONTROLLERS = "kube-controller-manager"


@pytest.fixture(scope="module")
def admin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubectl]:
    with installed_api_server(tmp_path_factory.mktemp("api-server")) as (control_plane, kubectl):
        command = build_commands(control_plane)[CONTROLLERS]
        with running(CONTROLLERS, command, control_plane.logs):
            yield kubectl


@pytest.fixture
def operator(admin: Kubectl, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatorProcess]:
    directory = tmp_path_factory.mktemp("operator")
    account = admin.as_account("semipd-operator", OPERATOR_NAMESPACE, directory / "kubeconfig")
    with (
        serving_agents() as agents,
        OperatorProcess(
            account.kubeconfig, directory, agents.port, free_port(), namespace=OPERATOR_NAMESPACE
        ) as process,
    ):
        yield process


def deploy(admin: Kubectl, name: str, namespace: str) -> None:
    manifest = service_manifest(name, replicas=1)
    manifest["metadata"]["namespace"] = namespace
    until(lambda: admin("create", "-f", "-", given=manifest).returncode == 0, "the kind is served")
    until(lambda: admin.is_there("deployment", name, "-n", namespace), f"{name} is deployed", GOES_S)
    until(lambda: partitions_and_pods(admin, name, namespace) == (1, 1), "its pod has its partition", GOES_S)


def partitions_and_pods(admin: Kubectl, service: str, namespace: str) -> tuple[int, ...]:
    of_service = ("-n", namespace, "-l", f"semipd.io/service={service}")
    return tuple(len(admin.get(kind, *of_service)["items"]) for kind in ("semipdpartitions", "pods"))


def delete_namespace(admin: Kubectl, namespace: str) -> None:
    admin.done("delete", "namespace", namespace, "--wait=false")
    until(lambda: not admin.is_there("namespace", namespace), f"namespace {namespace} is gone", GOES_S)


def test_a_namespace_goes_while_the_operator_runs(admin: Kubectl, operator: OperatorProcess) -> None:
    admin.done("create", "namespace", "team-b")
    deploy(admin, "chat", "team-b")
    delete_namespace(admin, "team-b")
    admin.done("create", "namespace", "team-b")
    deploy(admin, "chat", "team-b")
    assert operator.process.poll() is None
    delete_namespace(admin, "team-b")


def test_a_service_takes_everything_that_is_its_own_with_it(
    admin: Kubectl, operator: OperatorProcess
) -> None:
    deploy(admin, "brief", "team-a")
    admin.done("delete", "semipdservice", "brief", "-n", "team-a", "--timeout=60s")
    kinds = "deployment,service,serviceaccount,role,rolebinding,networkpolicy,poddisruptionbudget,semipdpartition,pod"
    of_service = ("-n", "team-a", "-l", "semipd.io/service=brief", "-o", "name")
    until(lambda: admin.done("get", kinds, *of_service) == "", "all of it is gone", GOES_S)


def test_the_crds_go_and_come_back_while_the_operator_runs(admin: Kubectl, operator: OperatorProcess) -> None:
    deploy(admin, "before", "team-a")
    admin.done("delete", "-k", str(ROOT / "crds"), "--timeout=120s")
    until(
        lambda: "waits for the CustomResourceDefinitions" in operator.log(),
        "the operator has seen it",
        GOES_S,
    )
    assert operator.process.poll() is None
    admin.apply_all(render(ROOT / "crds"))
    deploy(admin, "after", "team-a")
    assert operator.process.poll() is None
    of_service = ("-n", "team-a", "-l", "semipd.io/service=before", "-o", "name")
    until(
        lambda: admin.done("get", "deployment,pod,role", *of_service) == "",
        "what it left is collected",
        GOES_S,
    )


def test_an_operator_that_is_there_before_the_crds_serves_what_comes(
    admin: Kubectl, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """As `kubectl apply -k` may start it."""
    admin.done("delete", "-k", str(ROOT / "crds"), "--timeout=120s")
    directory = tmp_path_factory.mktemp("early")
    account = admin.as_account("semipd-operator", OPERATOR_NAMESPACE, directory / "kubeconfig")
    with (
        serving_agents() as agents,
        OperatorProcess(
            account.kubeconfig, directory, agents.port, free_port(), namespace=OPERATOR_NAMESPACE
        ) as early,
    ):
        until(lambda: "waits for the CustomResourceDefinitions" in early.log(), "it waits")
        admin.apply_all(render(MANIFESTS / "default"))
        deploy(admin, "early", "team-a")


def test_a_namespace_goes_when_the_operator_has_gone_first(admin: Kubectl, operator: OperatorProcess) -> None:
    admin.done("create", "namespace", "team-c")
    deploy(admin, "chat", "team-c")
    operator.__exit__()
    admin.done("delete", "namespace", OPERATOR_NAMESPACE, "--wait=false")
    delete_namespace(admin, "team-c")
    admin.done("delete", "-k", str(ROOT / "crds"), "--timeout=120s")
    until(
        lambda: not admin.is_there("namespace", OPERATOR_NAMESPACE), "the operator's own is gone too", GOES_S
    )
