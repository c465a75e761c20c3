"""The status of classes on a real API server, as `kubectl get semipdclasses` shows it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from api_server import API_SERVER_IS_BUILT
from installed import OPERATOR_NAMESPACE, Kubectl, operators_account, until
from operator_process import NAMESPACE, Agents, Cluster, OperatorProcess, service_manifest
from running_service import free_port

from semipd_core.api.service_class import DEFAULT_CLASS_ANNOTATION
from semipd_operator.class_statuses import EVERY_S
from semipd_operator.plan.naming import STATUS_MANAGER

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(not API_SERVER_IS_BUILT, reason="the API server is not built: make cluster-build"),
]


@pytest.fixture(scope="module")
def account(kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kubeconfig of the operator's own account, with the roles of the manifests and no more."""
    return operators_account(kubeconfig, tmp_path_factory.mktemp("account") / "kubeconfig")


@pytest.fixture(scope="module")
def admin(kubeconfig: Path) -> Kubectl:
    return Kubectl(kubeconfig)


@pytest.fixture
def operator(account: Path, agents: Agents, tmp_path: Path) -> Iterator[OperatorProcess]:
    with OperatorProcess(
        account, tmp_path, agents.port, free_port(), namespace=OPERATOR_NAMESPACE
    ) as running:
        yield running


@pytest.fixture(autouse=True)
def without_objects(admin: Kubectl) -> Iterator[None]:
    """Each test begins with none; children stay, as nobody collects them."""
    yield
    admin.done("delete", "semipdservices", "--all", "-n", NAMESPACE)
    admin.done("delete", "semipdclasses", "--all")


def class_manifest(name: str, *, default: bool = False, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "semipd.io/v1alpha1",
        "kind": "SemiPDClass",
        "metadata": {"name": name, "annotations": {DEFAULT_CLASS_ANNOTATION: "true"} if default else {}},
        "spec": spec,
    }


def cuda_service(name: str, **spec: Any) -> dict[str, Any]:
    return service_manifest(name, **{"resources": {"device": "CUDA", "gpusPerEngine": 2}, **spec})


def rows(admin: Kubectl) -> dict[str, tuple[str, ...]]:
    """What `kubectl get semipdclasses` prints, by name, without the age."""
    head, *lines = admin.done("get", "semipdclasses").splitlines()
    columns = {title: head.index(title) for title in head.split()}
    starts = [*columns.values(), None]
    cells = [[line[start:end].strip() for start, end in pairwise(starts)] for line in lines]
    assert list(columns)[-1] == "AGE"
    return {name: tuple(rest[:-1]) for name, *rest in cells}


def until_rows(admin: Kubectl, **wanted: tuple[str, ...]) -> None:
    until(lambda: rows(admin) == wanted, f"kubectl get semipdclasses shows {wanted}, not {rows(admin)}")


def status(admin: Kubectl, name: str) -> dict[str, Any]:
    return admin.get("semipdclass", name).get("status", {})


def test_the_columns_of_two_services_and_their_classes(
    admin: Kubectl, cluster: Cluster, operator: OperatorProcess
) -> None:
    admin.create(class_manifest("standard", default=True, gpuBudget=8))
    admin.create(class_manifest("cpu", device="CPU"))
    until_rows(
        admin,
        cpu=("", "CPU", "0", "0", "", "True", "Accepted"),
        standard=("true", "CUDA", "0", "0", "8", "True", "Accepted"),
    )
    cluster.apply(cuda_service("chat", replicas=3))
    cluster.apply(service_manifest("small", classRef={"name": "cpu"}, replicas=2))
    until_rows(
        admin,
        cpu=("", "CPU", "1", "0", "", "True", "Accepted"),
        standard=("true", "CUDA", "1", "6", "8", "True", "Accepted"),
    )
    cluster.scale("chat", 1)
    cluster.apply(cuda_service("other", replicas=1))
    until_rows(
        admin,
        cpu=("", "CPU", "1", "0", "", "True", "Accepted"),
        standard=("true", "CUDA", "2", "4", "8", "True", "Accepted"),
    )
    cluster.delete("SemiPDService", "chat")
    until_rows(
        admin,
        cpu=("", "CPU", "1", "0", "", "True", "Accepted"),
        standard=("true", "CUDA", "1", "2", "8", "True", "Accepted"),
    )
    found = admin.get("semipdclass", "standard", "--show-managed-fields")
    assert found["status"]["observedGeneration"] == found["metadata"]["generation"] == 1
    writers = {
        (entry["manager"], entry.get("subresource", "")) for entry in found["metadata"]["managedFields"]
    }
    assert writers == {("kubectl-create", ""), (STATUS_MANAGER, "status")}


def test_of_two_classes_marked_as_default_one_says_that_the_other_is(
    admin: Kubectl, cluster: Cluster, operator: OperatorProcess
) -> None:
    """Made within one second or not: the one that wins is the one that services follow."""
    admin.create(class_manifest("blue", default=True))
    admin.create(class_manifest("green", default=True))
    cluster.apply(service_manifest("chat", replicas=1))

    def winners() -> list[str]:
        return [name for name, row in rows(admin).items() if row[-1] == "Accepted" and row[2] == "1"]

    until(lambda: len(winners()) == 1, "one of them is the default one")
    (winner,) = winners()
    (loser,) = {"blue", "green"} - {winner}
    until(lambda: rows(admin)[loser][-2:] == ("False", "AnotherDefault"), "the other says so")
    (condition,) = status(admin, loser)["conditions"]
    assert condition["message"] == (
        f"only services that name it follow it; services that name no class follow {winner}, the youngest of those marked as "
        "default (of equally old ones the first by name): blue, green"
    )
    admin.done("annotate", "semipdclass", winner, f"{DEFAULT_CLASS_ANNOTATION}-")
    until(lambda: rows(admin)[loser][2:] == ("1", "0", "", "True", "Accepted"), "the other takes its place")
    until(lambda: rows(admin)[winner][2] == "0", "and its services")


def test_an_operator_that_is_killed_and_comes_back_writes_no_class(
    account: Path, admin: Kubectl, cluster: Cluster, operator: OperatorProcess, agents: Agents, tmp_path: Path
) -> None:
    admin.create(class_manifest("standard", default=True))
    admin.create(class_manifest("cpu", device="CPU"))
    for number in range(5):
        cluster.apply(cuda_service(f"chat-{number}", replicas=1))
    until_rows(
        admin,
        cpu=("", "CPU", "0", "0", "", "True", "Accepted"),
        standard=("true", "CUDA", "5", "10", "", "True", "Accepted"),
    )
    before = {name: admin.get("semipdclass", name) for name in ("standard", "cpu")}
    os.kill(operator.process.pid, signal.SIGKILL)
    operator.process.wait(10)
    with OperatorProcess(
        account, tmp_path, agents.port, free_port(), "second", namespace=OPERATOR_NAMESPACE
    ) as second:
        cluster.wait(lambda: "leads" in second.log(), "the second leads")
        admin.create(class_manifest("new"))
        until(lambda: rows(admin)["new"][-1] == "Accepted", "it looks at classes")
        assert {name: admin.get("semipdclass", name) for name in before} == before
        cluster.delete("SemiPDService", "chat-0")
        until(lambda: rows(admin)["standard"][2:4] == ("4", "8"), "it does its work")


def test_a_status_that_somebody_overwrites_comes_back(admin: Kubectl, operator: OperatorProcess) -> None:
    admin.create(class_manifest("standard"))
    until_rows(admin, standard=("", "CUDA", "0", "0", "", "True", "Accepted"))
    patch = ("patch", "semipdclass", "standard", "--subresource=status", "--type=merge")
    admin.done(*patch, "-p", '{"status": {"services": 99, "device": "CPU"}}')
    until_rows(admin, standard=("", "CUDA", "0", "0", "", "True", "Accepted"))


def test_a_class_of_a_laxer_schema_says_why_it_cannot_be_read(
    admin: Kubectl, operator: OperatorProcess
) -> None:
    """As of a release that allowed more: the object is stored, and today's schema came later."""
    admin.create(class_manifest("gold"))
    until_rows(admin, gold=("", "CUDA", "0", "0", "", "True", "Accepted"))
    lowest = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/gpuBudget/minimum"
    change = ("patch", "crd", "semipdclasses.semipd.io", "--type=json", "-p")
    admin.done(*change, f'[{{"op": "replace", "path": "{lowest}", "value": -9}}]')
    try:
        until(
            lambda: (
                admin(
                    "patch", "semipdclass", "gold", "--type=merge", "-p", '{"spec": {"gpuBudget": -1}}'
                ).returncode
                == 0
            ),
            "the laxer schema is in force",
        )
    finally:
        admin.done(*change, f'[{{"op": "replace", "path": "{lowest}", "value": 0}}]')
    until(lambda: rows(admin)["gold"][-2:] == ("False", "InvalidSpec"), "the class says so")
    said = status(admin, "gold")
    assert said["observedGeneration"] == 2
    assert said["conditions"][0]["message"] == (
        "spec.gpuBudget: got -1, allowed: an integer 0..100000; "
        "the last form that was read holds until the operator restarts"
    )
    admin.done("patch", "semipdclass", "gold", "--type=merge", "-p", '{"spec": {"gpuBudget": 4}}')
    until_rows(admin, gold=("", "CUDA", "0", "0", "4", "True", "Accepted"))


def test_an_operator_of_one_namespace_writes_none(
    kubeconfig: Path, admin: Kubectl, cluster: Cluster, agents: Agents, tmp_path: Path
) -> None:
    """It would count its own services alone. Here under an account that might."""
    admin.create(class_manifest("standard", default=True, device="CPU"))
    with OperatorProcess(
        kubeconfig, tmp_path, agents.port, free_port(), "of-a-namespace", watch_namespace=NAMESPACE
    ) as running:
        cluster.apply(service_manifest("alone", replicas=1))
        cluster.wait(lambda: cluster.get("Deployment", "alone"), "it serves its namespace")
        rounds = running.metric("semipd_operator_rounds") + 2 * EVERY_S  # of a second each, or longer
        cluster.wait(lambda: running.metric("semipd_operator_rounds") > rounds, "it goes on")
        assert status(admin, "standard") == {}
