"""An agent's token, on a real API server: what RBAC and the ValidatingAdmissionPolicy together let it do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from api_server import API_SERVER_IS_BUILT
from fleet_objects import service
from installed import Kubectl, installed_api_server, until_refused

from semipd_core.api.service_class import ClassSpec
from semipd_operator.plan.access import build_access
from semipd_operator.plan.effective import apply_class

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not API_SERVER_IS_BUILT, reason="the API server is not built: make cluster-build"),
]
POLICY = "ValidatingAdmissionPolicy 'semipd-agent-writes-its-own-partition'"
WORDS = "a service account may write only the partition of the pod that its token is bound to: the token is bound to "
APPLY_STATUS = ("apply", "--server-side", "--field-manager=semipd-agent", "--subresource=status", "-f", "-")


def partition(name: str) -> dict[str, object]:
    return {
        "apiVersion": "semipd.io/v1alpha1",
        "kind": "SemiPDPartition",
        "metadata": {"name": name, "namespace": "team-a"},
        "spec": {"target": {"prefillPercent": 80, "decodePercent": 100}, "decisionID": "cluster-1"},
    }


def report(name: str) -> dict[str, object]:
    """As an agent writes it: by server-side apply, without reading it first."""
    return {
        "apiVersion": "semipd.io/v1alpha1",
        "kind": "SemiPDPartition",
        "metadata": {"name": name, "namespace": "team-a"},
        "status": {"observedDecisionID": "cluster-1"},
    }


def pod(name: str) -> dict[str, object]:
    container = {"name": "engine", "image": "semipd/engine:test"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "team-a"},
        "spec": {"serviceAccountName": "chat", "containers": [container]},
    }


@pytest.fixture(scope="module")
def admin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubectl]:
    """Two pods of the service `chat` with their partitions, and the account that the operator makes for them."""
    with installed_api_server(tmp_path_factory.mktemp("api-server")) as (_, kubectl):
        chat = kubectl.create(
            {
                "apiVersion": "semipd.io/v1alpha1",
                "kind": "SemiPDService",
                "metadata": {"name": "chat", "namespace": "team-a"},
                "spec": {"model": {"uri": "builtin://smollm2-135m"}},
            }
        )
        effective = apply_class(service(), ClassSpec(), operator_image="semipd/engine:test")
        for manifest in build_access(effective):
            manifest["metadata"]["ownerReferences"][0]["uid"] = chat["metadata"]["uid"]
            kubectl.create(manifest)
        for name in ("chat-a", "chat-b"):
            kubectl.create(pod(name))
            kubectl.create(partition(name))
        kubectl.done("create", "secret", "generic", "hf-token", "-n", "team-a", "--from-literal=token=secret")
        yield kubectl


@pytest.fixture(scope="module")
def agent(admin: Kubectl, tmp_path_factory: pytest.TempPathFactory) -> Kubectl:
    """As the kubelet gives it to pod chat-a."""
    uid = admin.get("pod", "chat-a", "-n", "team-a")["metadata"]["uid"]
    bound = ("--bound-object-kind=Pod", "--bound-object-name=chat-a", f"--bound-object-uid={uid}")
    agent = admin.as_account("chat", "team-a", tmp_path_factory.mktemp("agent") / "kubeconfig", *bound)
    until_refused(agent, *APPLY_STATUS, given=report("chat-b"))
    return agent


def test_an_agent_writes_the_status_of_its_own_partition(admin: Kubectl, agent: Kubectl) -> None:
    agent.done(*APPLY_STATUS, given=report("chat-a"))
    found = admin.get("semipdpartition", "chat-a", "-n", "team-a")
    assert found["status"] == {"observedDecisionID": "cluster-1"}


def test_an_agent_cannot_write_the_status_of_another_pods_partition(agent: Kubectl) -> None:
    said = agent.refused(*APPLY_STATUS, given=report("chat-b"))
    assert POLICY in said
    assert said.rstrip().endswith(f"{WORDS}chat-a, the partition is chat-b")


def test_a_token_bound_to_no_pod_writes_no_partition(admin: Kubectl, tmp_path: Path) -> None:
    unbound = admin.as_account("chat", "team-a", tmp_path / "kubeconfig")
    said = unbound.refused(*APPLY_STATUS, given=report("chat-a"))
    assert POLICY in said
    assert said.rstrip().endswith(f"{WORDS}no pod, the partition is chat-a")


@pytest.mark.parametrize(
    ("arguments", "right"),
    [
        pytest.param(
            ("patch", "semipdpartition/chat-a", "--type=merge", "-p", '{"spec": {"decisionID": "mine"}}'),
            'cannot patch resource "semipdpartitions" in API group "semipd.io" in the namespace "team-a"',
            id="its own partition's spec",
        ),
        pytest.param(
            ("delete", "semipdpartition/chat-b"),
            'cannot delete resource "semipdpartitions" in API group "semipd.io" in the namespace "team-a"',
            id="a partition's life",
        ),
        pytest.param(
            ("get", "secret", "hf-token"),
            'cannot get resource "secrets" in API group "" in the namespace "team-a"',
            id="a secret",
        ),
        pytest.param(
            ("get", "semipdservice", "chat"),
            'cannot get resource "semipdservices" in API group "semipd.io" in the namespace "team-a"',
            id="the service",
        ),
    ],
)
def test_rbac_gives_an_agent_no_right_to(arguments: tuple[str, ...], right: str, agent: Kubectl) -> None:
    said = agent.refused(*arguments, "-n", "team-a")
    assert f'User "system:serviceaccount:team-a:chat" {right}' in said


@pytest.mark.parametrize("resource", ["semipdservices", "semipdservices/status", "secrets", "pods", "roles"])
@pytest.mark.parametrize("verb", ["create", "patch", "update", "delete"])
def test_an_agent_may_write_nothing_else(verb: str, resource: str, admin: Kubectl) -> None:
    assert not admin.may("system:serviceaccount:team-a:chat", verb, resource, "-n", "team-a")


def test_an_agent_sees_nothing_of_another_namespace(agent: Kubectl) -> None:
    assert "Forbidden" in agent.refused("get", "semipdpartitions", "-n", "default")


def test_who_may_write_partitions_is_not_held_to_a_pod(admin: Kubectl, tmp_path: Path) -> None:
    """As an operator in any namespace; here one of a namespaced install."""
    admin.done("create", "serviceaccount", "planner", "-n", "team-a")
    role = ("--verb=patch", "--resource=semipdpartitions,semipdpartitions.semipd.io/status")
    admin.done("create", "role", "planner", "-n", "team-a", *role)
    admin.done(
        "create",
        "rolebinding",
        "planner",
        "-n",
        "team-a",
        "--role=planner",
        "--serviceaccount=team-a:planner",
    )
    planner = admin.as_account("planner", "team-a", tmp_path / "kubeconfig")
    planner.done(*APPLY_STATUS, given=report("chat-b"))


def test_a_person_is_no_service_account(admin: Kubectl) -> None:
    admin.done(*APPLY_STATUS, given=report("chat-b"))
