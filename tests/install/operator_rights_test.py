"""The operator under a token of its own account: what its role gives it is enough, and is used to the last verb.

Which requests it makes is read from the API server's audit log.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from api_server import API_SERVER_IS_BUILT
from installed import MANIFESTS, OPERATOR_NAMESPACE, Kubectl, installed_api_server, ready_pod, render, until
from operator_process import OperatorProcess, service_manifest, serving_agents
from running_service import free_port

from semipd_cluster.control_plane import ALONE
from semipd_operator.kinds import OPTIONAL, WATCHED
from semipd_operator.plan.naming import labels

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not API_SERVER_IS_BUILT, reason="the API server is not built: make cluster-build"),
]
ACCOUNT = f"system:serviceaccount:{OPERATOR_NAMESPACE}:semipd-operator"
AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata", "users": [ACCOUNT]}, {"level": "None"}],
}
FOREIGN_KINDS = {
    "PodMonitor": ("monitoring.coreos.com", "podmonitors"),
    "InferencePool": ("inference.networking.k8s.io", "inferencepools"),
}
OTHER_API = {  # of each watched kind, what a leftover of an earlier release would be
    "Deployment": "apps/v1",
    "DaemonSet": "apps/v1",
    "Service": "v1",
    "ServiceAccount": "v1",
    "Role": "rbac.authorization.k8s.io/v1",
    "RoleBinding": "rbac.authorization.k8s.io/v1",
    "NetworkPolicy": "networking.k8s.io/v1",
    "PodDisruptionBudget": "policy/v1",
    "PodMonitor": "monitoring.coreos.com/v1",
    "InferencePool": "inference.networking.k8s.io/v1",
}
POD_TEMPLATE = {
    "metadata": {"labels": {"app": "left"}},
    "spec": {"containers": [{"name": "left", "image": "left"}]},
}
WORKLOAD = {"selector": {"matchLabels": {"app": "left"}}, "template": POD_TEMPLATE}
OTHER_BODY: dict[str, dict[str, Any]] = {
    "Deployment": {"spec": WORKLOAD},
    "DaemonSet": {"spec": WORKLOAD},
    "Service": {"spec": {"ports": [{"port": 80}]}},
    "Role": {"rules": []},
    "RoleBinding": {
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "left"},
        "subjects": [],
    },
    "NetworkPolicy": {"spec": {"podSelector": {}}},
    "PodDisruptionBudget": {"spec": {"maxUnavailable": 1}},
}


class Right(NamedTuple):
    verb: str
    group: str
    resource: str  # with its subresource, as in a rule


GIVEN_ON = {  # to agents and proxies, by the Roles that it creates: who creates a Role must hold what it grants
    Right("get", "semipd.io", "semipdpartitions"),
    Right("patch", "semipd.io", "semipdpartitions/status"),
    Right("list", "discovery.k8s.io", "endpointslices"),
    Right("watch", "discovery.k8s.io", "endpointslices"),
}


def rights_of(rules: list[dict[str, Any]]) -> set[Right]:
    return {
        Right(verb, group, resource)
        for rule in rules
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def granted() -> set[Right]:
    found = [each for each in yaml.safe_load_all(render(MANIFESTS / "default")) if each]
    rules = [
        each["rules"]
        for each in found
        if each["metadata"]["name"].startswith("semipd-operator") and each["kind"] in ("ClusterRole", "Role")
    ]
    return set().union(*(rights_of(each) for each in rules))


class Audit:
    """What the account asked for, and what it was refused."""

    def __init__(self, log: Path) -> None:
        self._log = log

    def _entries(self) -> Iterator[tuple[Right, int]]:
        for line in self._log.read_text().splitlines():
            entry = json.loads(line)
            found = entry.get("objectRef")
            if found and entry["user"]["username"] == ACCOUNT:
                resource = "/".join(filter(None, (found["resource"], found.get("subresource"))))
                right = Right(entry["verb"], found.get("apiGroup", ""), resource)
                yield right, entry.get("responseStatus", {}).get("code", 0)

    def used(self) -> set[Right]:
        """A write that made its object counts as create too: the API server asks for both rights."""
        found = set()
        for right, code in self._entries():
            if code < 400:
                found.add(right)
            if right.verb == "patch" and code == 201:
                found.add(right._replace(verb="create"))
        return found

    def refused(self) -> set[Right]:
        return {right for right, code in self._entries() if code == 403}


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Kubectl, Audit]]:
    directory = tmp_path_factory.mktemp("audited")
    policy, log = directory / "audit.yaml", directory / "audit.log"
    policy.write_text(json.dumps(AUDIT_POLICY))
    flags = (*ALONE, f"--audit-policy-file={policy}", f"--audit-log-path={log}")
    with installed_api_server(directory / "api-server", flags=flags) as (_, admin):
        for kind, (group, plural) in FOREIGN_KINDS.items():
            admin.create(foreign_kind(kind, group, plural))
        admin.done("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        yield admin, Audit(log)


def foreign_kind(kind: str, group: str, plural: str) -> dict[str, Any]:
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    version = {"name": "v1", "served": True, "storage": True, "schema": schema}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{plural}.{group}",
            "annotations": {"api-approved.kubernetes.io": "unapproved, a test"},
        },
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
            "versions": [version],
        },
    }


@pytest.fixture(scope="module")
def operator(
    audited: tuple[Kubectl, Audit], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OperatorProcess]:
    directory = tmp_path_factory.mktemp("operator")
    account = audited[0].as_account("semipd-operator", OPERATOR_NAMESPACE, directory / "kubeconfig")
    with (
        serving_agents() as agents,
        OperatorProcess(
            account.kubeconfig, directory, agents.port, free_port(), namespace=OPERATOR_NAMESPACE
        ) as running,
    ):
        yield running


def is_ready_reason(admin: Kubectl, name: str, reason: str) -> bool:
    status = admin.get("semipdservice", name, "-n", "team-a").get("status", {})
    return any(each["reason"] == reason for each in status.get("conditions", []) if each["type"] == "Ready")


def test_what_its_role_gives_it_is_enough_and_is_used_to_the_last_verb(
    audited: tuple[Kubectl, Audit], operator: OperatorProcess
) -> None:
    admin, audit = audited
    admin.create(
        {"apiVersion": "semipd.io/v1alpha1", "kind": "SemiPDClass", "metadata": {"name": "standard"}}
    )
    admin.create(service_manifest("chat", routing="InferencePool"))
    admin.create(service_manifest("nodes", placement="EveryNode"))
    for kind, name in (
        ("deployment", "chat"),
        ("daemonset", "nodes"),
        ("inferencepool", "chat"),
        ("podmonitor", "chat"),
    ):
        until(lambda kind=kind, name=name: admin.is_there(kind, name, "-n", "team-a"), f"the {kind} is there")
    ready_pod(admin, "chat", "chat-1", "team-a")
    until(lambda: admin.is_there("semipdpartition", "chat-1", "-n", "team-a"), "the pod has its partition")
    replace_leftovers(admin)
    become_ready_twice(admin)
    more = json.dumps({"spec": {"autoscale": {"minReplicas": 2, "maxReplicas": 4}}})
    admin.done("patch", "semipdservice", "chat", "-n", "team-a", "--type=merge", "-p", more)
    until(lambda: audit.used() >= granted() - GIVEN_ON, "every verb but those that it gives on is used", 90)
    assert audit.used() <= granted()
    assert audit.refused() == set()


def replace_leftovers(admin: Kubectl) -> None:
    """A child of each kind under another name, as an earlier release may have made it: it goes."""
    for kind, api_version in OTHER_API.items():
        left = {
            "apiVersion": api_version,
            "kind": kind,
            "metadata": {"name": "left", "namespace": "team-a", "labels": labels("chat")},
            **OTHER_BODY.get(kind, {}),
        }
        admin.create(left)
        until(lambda kind=kind: not admin.is_there(kind, "left", "-n", "team-a"), f"the leftover {kind} goes")
    assert set(OTHER_API) == {*WATCHED, *OPTIONAL}


def become_ready_twice(admin: Kubectl) -> None:
    """Said twice within its window, an event is counted up."""
    spec = admin.get("semipdpartition", "chat-1", "-n", "team-a")["spec"]
    engine = {"name": "engine-0", "requested": spec["target"], "granted": spec["target"]}
    patch_status(
        admin, "semipdpartition/chat-1", {"observedDecisionID": spec["decisionID"], "engines": [engine]}
    )
    for ready, reason in ((1, "AllReady"), (0, "NotReady"), (1, "AllReady")):
        generation = admin.get("deployment", "chat", "-n", "team-a")["metadata"]["generation"]
        counts = {"replicas": 1, "updatedReplicas": 1, "readyReplicas": ready, "availableReplicas": ready}
        status = {"observedGeneration": generation, **counts}
        patch_status(admin, "deployment/chat", status)
        until(lambda reason=reason: is_ready_reason(admin, "chat", reason), f"Ready says {reason}")


def patch_status(admin: Kubectl, name: str, status: dict[str, Any]) -> None:
    patch = ("patch", name, "-n", "team-a", "--subresource=status", "--type=merge")
    admin.done(*patch, "-p", json.dumps({"status": status}))


@pytest.mark.parametrize("resource", ["secrets", "configmaps", "nodes", "namespaces", "pods/exec"])
@pytest.mark.parametrize("verb", ["get", "create", "delete"])
def test_it_may_not(verb: str, resource: str, audited: tuple[Kubectl, Audit]) -> None:
    assert not audited[0].may(ACCOUNT, verb, resource, "-n", "team-a")


def test_it_can_give_nobody_more_than_it_has(audited: tuple[Kubectl, Audit], tmp_path: Path) -> None:
    operator = audited[0].as_account("semipd-operator", OPERATOR_NAMESPACE, tmp_path / "kubeconfig")
    role = ("create", "role", "thief", "-n", "team-a", "--verb=get", "--resource=secrets")
    assert "attempting to grant RBAC permissions not currently held" in operator.refused(*role)


@pytest.mark.parametrize(
    ("role", "verb", "resource", "is_allowed"),
    [
        ("view", "get", "semipdservices", True),
        ("view", "watch", "semipdpartitions", True),
        ("view", "create", "semipdservices", False),
        ("view", "patch", "semipdservices/scale", False),
        ("edit", "create", "semipdservices", True),
        ("edit", "delete", "semipdservices", True),
        ("edit", "patch", "semipdservices/scale", True),
        ("edit", "patch", "semipdservices/status", False),
        ("edit", "patch", "semipdpartitions", False),
        ("edit", "patch", "semipdpartitions/status", False),
        ("edit", "patch", "semipdclasses/status", False),
        ("admin", "create", "semipdservices", True),
        ("admin", "delete", "semipdpartitions", False),
        ("admin", "create", "semipdclasses", False),
    ],
)
def test_the_roles_of_people(
    role: str, verb: str, resource: str, is_allowed: bool, audited: tuple[Kubectl, Audit]
) -> None:
    admin, _ = audited
    user = f"{role}-of-team-a"
    binding = ("create", "rolebinding", user, "-n", "team-a", f"--clusterrole={role}", f"--user={user}")
    assert aggregated(admin, role)
    said = admin(*binding)
    assert said.returncode == 0 or "already exists" in said.stderr
    subresource = resource.partition("/")[2]
    more = (f"--subresource={subresource}",) if subresource else ()
    assert (
        admin.may(user, verb, f"{resource.partition('/')[0]}.semipd.io", "-n", "team-a", *more) == is_allowed
    )


def aggregated(admin: Kubectl, role: str) -> bool:
    """What its controller would do: the rules of the ClusterRoles with the label."""
    label = f"rbac.authorization.k8s.io/aggregate-to-{role}=true"
    found = admin.get("clusterrole", "-l", label)["items"]
    rules = [rule for each in found for rule in each["rules"]]
    admin.done("patch", "clusterrole", role, "--type=merge", "-p", json.dumps({"rules": rules}))
    return any("semipd.io" in rule.get("apiGroups", []) for rule in rules)
