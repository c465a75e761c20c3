"""`doctor` asks for each right where the shipped manifests give it: in the cluster, or in the one namespace that is watched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from semipd_kubectl.errors import Forbidden, NotThere
from semipd_kubectl.observe.installation import observe_installation
from semipd_kubectl.reports.doctor.findings import WATCH_NAMESPACE, Check, Findings, watched_namespace
from semipd_kubectl.reports.doctor.report import build_doctor

MANIFESTS = Path(__file__).parents[2] / "manifests"
TEAM = "semipd-team"
OWN = {"name": WATCH_NAMESPACE, "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}}

Rule = Mapping[str, Any]


def rules(file: str, kind: str, name: str) -> list[Rule]:
    found = yaml.safe_load_all((MANIFESTS / file).read_text())
    return [
        rule
        for each in found
        if (each["kind"], each["metadata"]["name"]) == (kind, name)
        for rule in each["rules"]
    ]


OPERATOR_OF_CLUSTER = {None: rules("base/roles.yaml", "ClusterRole", "semipd-operator")}
OPERATOR_OF_TEAM = {
    None: rules("policies/cluster-reader.yaml", "ClusterRole", "semipd-cluster-reader"),
    TEAM: rules("namespaced/roles.yaml", "Role", "semipd-operator"),
}
EDIT = [
    *rules("policies/user-roles.yaml", "ClusterRole", "semipd-edit"),
    *rules("policies/user-roles.yaml", "ClusterRole", "semipd-view"),
    {"apiGroups": [""], "resources": ["pods", "pods/log", "pods/proxy"], "verbs": ["get", "list", "watch"]},
]


def deployment(*environment: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "spec": {"replicas": 2, "template": {"spec": {"containers": [{"env": list(environment)}]}}},
        "status": {"readyReplicas": 2},
    }


class FakeApi:
    """Knows the operator's Deployment, and judges reviews by `granted`: rules by namespace, of which None is the cluster."""

    def __init__(
        self, operator: dict[str, Any] | Exception, granted: Mapping[str | None, list[Rule]]
    ) -> None:
        self._operator = operator
        self._granted = granted

    def now_s(self) -> float:
        return 0.0

    def get(self, path: str) -> dict[str, Any]:
        if path == "/version":
            return {}
        if "deployments" not in path:
            raise NotThere("not found", 404)
        if isinstance(self._operator, Exception):
            raise self._operator
        return self._operator

    def list(self, path: str) -> list[dict[str, Any]]:
        return []

    def create(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        asked = body["spec"]["resourceAttributes"]
        resource = "/".join(asked[part] for part in ("resource", "subresource") if part in asked)
        held = [*self._granted.get(None, []), *self._granted.get(asked.get("namespace"), [])]
        return {"status": {"allowed": is_given(held, asked["group"], resource, asked["verb"])}}


def is_given(held: Iterable[Rule], group: str, resource: str, verb: str) -> bool:
    return any(
        group in rule["apiGroups"] and resource in rule["resources"] and verb in rule["verbs"]
        for rule in held
        if "resourceNames" not in rule
    )


def observed(
    operator: dict[str, Any] | Exception,
    granted: Mapping[str | None, list[Rule]],
    *,
    namespace: str | None = None,
) -> Findings:
    return observe_installation(FakeApi(operator, granted), namespace, TEAM)  # type: ignore[arg-type]


def check(name: str, found: Findings) -> Check | None:
    return next((each for each in build_doctor(found).checks if each.name == name), None)


@pytest.mark.parametrize(
    ("environment", "watched"),
    [
        pytest.param([], None, id="the whole cluster"),
        pytest.param([OWN], TEAM, id="its own, as the kustomization says"),
        pytest.param(
            [{"name": WATCH_NAMESPACE, "value": "team-a"}], "team-a", id="another, as the chart can say"
        ),
        pytest.param([{"name": WATCH_NAMESPACE, "value": ""}], None, id="an empty value"),
        pytest.param([{**OWN, "name": "SEMIPD_OPERATOR_NAMESPACE"}], None, id="another variable"),
    ],
)
def test_which_namespace_an_operator_watches(environment: list[dict[str, Any]], watched: str | None) -> None:
    assert watched_namespace(deployment(*environment), TEAM) == watched


def test_the_shipped_patch_of_a_namespaced_operator_is_understood() -> None:
    (patch,) = yaml.safe_load((MANIFESTS / "namespaced" / "kustomization.yaml").read_text())["patches"]
    (operation,) = yaml.safe_load(patch["patch"])
    assert watched_namespace(deployment(operation["value"]), TEAM) == TEAM


@pytest.mark.parametrize(
    ("operator", "granted", "verdict", "remedy"),
    [
        pytest.param(deployment(), OPERATOR_OF_CLUSTER, "Pass", "", id="of the cluster"),
        pytest.param(deployment(OWN), OPERATOR_OF_TEAM, "Pass", "", id="of its own namespace"),
        pytest.param(
            deployment({"name": WATCH_NAMESPACE, "value": "team-a"}),
            {None: OPERATOR_OF_TEAM[None], "team-a": OPERATOR_OF_TEAM[TEAM]},
            "Pass",
            "",
            id="of another namespace",
        ),
        pytest.param(
            deployment(),
            OPERATOR_OF_TEAM,
            "Fail",
            "manifests/default",
            id="of the cluster, with a Role alone",
        ),
        pytest.param(
            deployment(OWN),
            {TEAM: OPERATOR_OF_TEAM[TEAM]},
            "Fail",
            "manifests/namespaced",
            id="of a namespace, without the classes",
        ),
        pytest.param(
            Forbidden("deployments is forbidden", 403),
            OPERATOR_OF_TEAM,
            "Unknown",
            "more rights",
            id="a Deployment that may not be read",
        ),
        pytest.param(NotThere("not found", 404), {}, "Fail", "manifests/default", id="no operator"),
    ],
)
def test_the_operators_rights_are_asked_for_where_it_works(
    operator: dict[str, Any] | Exception,
    granted: Mapping[str | None, list[Rule]],
    verdict: str,
    remedy: str,
) -> None:
    found = check("operator's rights", observed(operator, granted))
    assert found is not None
    assert found.verdict == verdict
    assert remedy in found.remedy


@pytest.mark.parametrize("name", ["agents' policy", "CRD semipdclasses.semipd.io"])
@pytest.mark.parametrize(
    ("operator", "folder"), [(deployment(), "manifests/default"), (deployment(OWN), "manifests/cluster")]
)
def test_no_remedy_brings_a_second_operator(name: str, operator: dict[str, Any], folder: str) -> None:
    found = check(name, observed(operator, {}))
    assert found is not None
    assert found.remedy.endswith(folder)


@pytest.mark.parametrize(
    ("granted", "words"),
    [
        pytest.param({TEAM: EDIT}, "you may not list semipdclasses.semipd.io", id="by a RoleBinding"),
        pytest.param({None: EDIT}, None, id="by a ClusterRoleBinding"),
    ],
)
def test_classes_are_the_clusters_so_a_role_of_a_namespace_does_not_show_them(
    granted: Mapping[str | None, list[Rule]], words: str | None
) -> None:
    found = observed(deployment(), granted, namespace=TEAM)
    rights, looking = check("your rights", found), check("rights for looking", found)
    assert rights is not None
    assert rights.verdict == "Pass"
    assert (looking is None) is (words is None)
    assert looking is None or (words or "") in looking.message
