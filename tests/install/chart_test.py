"""The Helm chart says what the kustomizations say, refuses what it does not know, and loses no service."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from api_server import API_SERVER_IS_BUILT
from installed import MANIFESTS, Kubectl, installed_api_server, programs, render

pytestmark = pytest.mark.skipif(
    not API_SERVER_IS_BUILT, reason="helm and kubectl are not built: make cluster-build"
)
CHART = MANIFESTS / "helm" / "semipd"
KEEP = {"helm.sh/resource-policy": "keep"}
ONCE = ("--set", "cluster.crds=false,cluster.policies=false,cluster.userRoles=false")

Objects = dict[tuple[str, str, str], dict[str, Any]]


def helm(*arguments: str, kubeconfig: Path | None = None) -> subprocess.CompletedProcess[str]:
    where = ["--kubeconfig", str(kubeconfig)] if kubeconfig else []
    command = [str(programs() / "helm"), *arguments, *where]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def template(*arguments: str, namespace: str = "semipd-system") -> Objects:
    result = helm("template", "semipd", str(CHART), "--namespace", namespace, *arguments)
    assert result.returncode == 0, result.stderr
    return by_name(result.stdout)


def by_name(text: str) -> Objects:
    found = [each for each in yaml.safe_load_all(text) if each]
    named = {
        (each["kind"], each["metadata"].get("namespace", ""), each["metadata"]["name"]): each
        for each in found
    }
    assert len(named) == len(found), "two objects of one name"
    return named


def without_keep(found: Objects) -> Objects:
    for (kind, _, _), each in found.items():
        if kind == "CustomResourceDefinition":
            assert each["metadata"].pop("annotations") == KEEP
    return found


def operator_of(found: Objects) -> dict[str, Any]:
    return next(each for (kind, _, _), each in found.items() if kind == "Deployment")["spec"]


def test_the_chart_renders_what_the_default_kustomization_does() -> None:
    """But for the namespace, which `--create-namespace` makes: Helm could not own it."""
    wanted = by_name(render(MANIFESTS / "default"))
    del wanted["Namespace", "", "semipd-system"]
    assert without_keep(template()) == wanted


def test_the_chart_renders_what_the_namespaced_kustomization_does() -> None:
    wanted = by_name(render(MANIFESTS / "namespaced"))
    assert template(*ONCE, "--set", "watchNamespace=semipd-team", namespace="semipd-team") == wanted


def test_the_chart_brings_the_alerts_and_the_dashboard_that_the_component_does() -> None:
    wanted = by_name(render(MANIFESTS / "monitored"))
    del wanted["Namespace", "", "semipd-system"]
    found = without_keep(template("--set", "monitoring.enabled=true"))
    assert found == wanted
    kinds = {kind for kind, *_ in found} - {kind for kind, *_ in template()}
    assert kinds == {"PodMonitor", "PrometheusRule", "ConfigMap"}


def test_alerts_and_dashboard_of_an_operator_of_one_namespace_are_in_it(tmp_path: Path) -> None:
    copied = tmp_path / "manifests"
    shutil.copytree(MANIFESTS, copied, symlinks=True)
    file = copied / "namespaced" / "kustomization.yaml"
    file.write_text(f"{file.read_text()}components: [../monitoring]\n")
    chosen = ("--set", "watchNamespace=semipd-team", "--set", "monitoring.enabled=true")
    assert by_name(render(file.parent)) == template(*ONCE, *chosen, namespace="semipd-team")


def test_the_two_kustomizations_of_a_namespaced_install_are_the_chart_without_its_cluster_wide_role() -> None:
    once = by_name(render(MANIFESTS / "cluster"))
    whole = without_keep(template("--set", "watchNamespace=semipd-team", namespace="semipd-team"))
    assert whole == {**once, **by_name(render(MANIFESTS / "namespaced"))}


def test_an_operator_of_one_namespace_has_the_rules_of_that_of_the_cluster_but_for_the_status_of_classes() -> (
    None
):
    """Read as a whole: namespaced rules and what it reads of the cluster are those of the ClusterRole."""
    cluster = by_name(render(MANIFESTS / "default"))
    team = by_name(render(MANIFESTS / "namespaced"))
    both = [
        *team["Role", "semipd-team", "semipd-operator"]["rules"],
        *cluster["ClusterRole", "", "semipd-cluster-reader"]["rules"],
    ]
    of_cluster_alone = {"apiGroups": ["semipd.io"], "resources": ["semipdclasses/status"], "verbs": ["patch"]}
    wanted = cluster["ClusterRole", "", "semipd-operator"]["rules"]
    assert sorted(map(str, [*both, of_cluster_alone])) == sorted(map(str, wanted))


def test_another_namespace_can_be_watched_from_the_operators_own() -> None:
    found = template("--set", "watchNamespace=team-a")
    assert ("Role", "team-a", "semipd-operator") in found
    assert ("Role", "semipd-system", "semipd-operator-lease") in found
    subjects = found["RoleBinding", "team-a", "semipd-operator"]["subjects"]
    assert [each["namespace"] for each in subjects] == ["semipd-system"]
    environment = operator_of(found)["template"]["spec"]["containers"][0]["env"]
    assert {"name": "SEMIPD_OPERATOR_WATCH_NAMESPACE", "value": "team-a"} in environment
    assert ("ClusterRole", "", "semipd-operator") not in found


def test_every_value_reaches_its_object() -> None:
    values = {
        "image": {"repository": "registry.example/operator", "tag": "v9", "pullPolicy": "Always"},
        "engineImage": {"repository": "registry.example/engine", "tag": "v8"},
        "imagePullSecrets": [{"name": "registry"}],
        "replicas": 1,
        "roundSeconds": 7.5,
        "resyncSeconds": 60,
        "apiServerCidrs": ["10.0.0.0/28", "fd00::/64"],
        "extraEnv": [{"name": "SEMIPD_OPERATOR_WORKERS", "value": "4"}],
        "resources": {"limits": {"memory": "1Gi"}, "requests": None},
        "nodeSelector": {"pool": "system"},
        "tolerations": [{"key": "control-plane", "operator": "Exists", "effect": "NoSchedule"}],
        "priorityClassName": "system-cluster-critical",
        "podAnnotations": {"team": "platform"},
        "podMonitor": {"create": True, "labels": {"release": "prometheus"}, "intervalSeconds": 5},
        "monitoring": {
            "enabled": True,
            "ruleLabels": {"release": "prometheus"},
            "dashboardLabels": {"grafana": "team"},
        },
        "defaultClass": {"create": True, "name": "cpu", "spec": {"device": "CPU"}},
    }
    found = template(
        *(part for name, value in values.items() for part in ("--set-json", f"{name}={json.dumps(value)}"))
    )
    operator = operator_of(found)
    pod, annotations = operator["template"]["spec"], operator["template"]["metadata"]["annotations"]
    container = pod["containers"][0]
    environment = {each["name"]: each.get("value") for each in container["env"]}
    assert (container["image"], container["imagePullPolicy"]) == ("registry.example/operator:v9", "Always")
    assert environment["SEMIPD_OPERATOR_ENGINE_IMAGE"] == "registry.example/engine:v8"
    assert environment["SEMIPD_OPERATOR_ROUND_SECONDS"] == "7.5"
    assert environment["SEMIPD_OPERATOR_RESYNC_SECONDS"] == "60"
    assert environment["SEMIPD_OPERATOR_API_SERVER_CIDRS"] == "10.0.0.0/28,fd00::/64"
    assert environment["SEMIPD_OPERATOR_WORKERS"] == "4"
    assert container["resources"] == {"limits": {"memory": "1Gi"}}
    for name in ("imagePullSecrets", "nodeSelector", "tolerations", "priorityClassName"):
        assert pod[name] == values[name]
    assert (operator["replicas"], annotations) == (1, {"team": "platform"})
    monitor = found["PodMonitor", "semipd-system", "semipd-operator"]
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    assert monitor["spec"]["podMetricsEndpoints"] == [
        {"port": "health", "path": "/metrics", "interval": "5s", "honorLabels": True}
    ]
    assert found["PrometheusRule", "semipd-system", "semipd"]["metadata"]["labels"]["release"] == "prometheus"
    assert found["ConfigMap", "semipd-system", "semipd-dashboard"]["metadata"]["labels"]["grafana"] == "team"
    cls = found["SemiPDClass", "", "cpu"]
    assert cls["spec"] == {"device": "CPU"}
    assert cls["metadata"]["annotations"]["semipd.io/is-default-class"] == "true"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        pytest.param(
            "replica", 1, "additional properties 'replica' not allowed", id="a value that is not there"
        ),
        pytest.param("image.name", "x", "additional properties 'name' not allowed", id="one below another"),
        pytest.param("replicas", "many", "'/replicas': got string, want integer", id="a word for a number"),
        pytest.param("replicas", 9, "'/replicas': maximum: got 9, want 5", id="too many"),
        pytest.param("roundSeconds", 0.1, "'/roundSeconds': minimum: got 0.1, want 0.5", id="too often"),
        pytest.param(
            "image.pullPolicy",
            "Sometimes",
            "'/image/pullPolicy': value must be one of '', 'Always', 'IfNotPresent', 'Never'",
            id="a policy that is none",
        ),
        pytest.param(
            "watchNamespace", "Team_A", "'/watchNamespace': 'Team_A' does not match pattern", id="no name"
        ),
        pytest.param(
            "monitoring.enabled",
            "yes",
            "'/monitoring/enabled': got string, want boolean",
            id="a word for yes",
        ),
        pytest.param(
            "apiServerCidrs",
            ["cluster.example"],
            "'/apiServerCidrs/0': 'cluster.example' does not match pattern",
            id="a name for an address",
        ),
        pytest.param("cluster.crds", 1, "'/cluster/crds': got number, want boolean", id="a number for yes"),
        pytest.param(
            "imagePullSecrets", [{"label": "x"}], "missing property 'name'", id="a secret without a name"
        ),
    ],
)
def test_a_value_that_is_wrong_is_named(name: str, value: object, said: str) -> None:
    result = helm("template", "semipd", str(CHART), "--set-json", f"{name}={json.dumps(value)}")
    assert result.returncode != 0
    assert said in result.stderr


@pytest.fixture(scope="module")
def kubectl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubectl]:
    with installed_api_server(tmp_path_factory.mktemp("api-server"), ()) as (_, admin):
        yield admin


@pytest.mark.slow
def test_an_upgrade_upgrades_the_crds_and_an_uninstall_deletes_no_service(
    kubectl: Kubectl, tmp_path: Path
) -> None:
    def release(*arguments: str) -> str:
        result = helm(*arguments, "--namespace", "semipd-system", kubeconfig=kubectl.kubeconfig)
        assert result.returncode == 0, result.stderr
        return result.stdout

    default = ("--set", "defaultClass.create=true", "--set", "defaultClass.spec.device=CPU")
    notes = release("install", "semipd", str(CHART), "--create-namespace", *default)
    assert "kubectl -n semipd-system rollout status deployment/semipd-operator" in notes
    assert kubectl.get("semipdclass", "standard")["spec"] == {"device": "CPU"}
    service = notes[notes.index("<<'SERVICE'\n") + 11 : notes.index("\n  SERVICE\n")]
    kubectl.done("apply", "-n", "team-a", "-f", "-", given=service)
    uid = kubectl.get("semipdservice", "chat", "-n", "team-a")["metadata"]["uid"]

    crd = ("crd", "semipdservices.semipd.io")
    kubectl.done("patch", *crd, "--type=json", "-p", '[{"op": "remove", "path": "/spec/names/shortNames"}]')
    kubectl.done("patch", "semipdclass", "standard", "--type=merge", "-p", '{"spec": {"gpuBudget": 8}}')
    release("upgrade", "semipd", str(CHART), "--force-conflicts", "--set", "replicas=1", *default)
    assert kubectl.get(*crd)["spec"]["names"]["shortNames"] == ["spd"]
    assert kubectl.get("semipdclass", "standard")["spec"] == {"device": "CPU", "gpuBudget": 8}

    release("uninstall", "semipd")
    assert not kubectl.is_there("deployment", "semipd-operator", "-n", "semipd-system")
    assert not kubectl.is_there("clusterrole", "semipd-operator")
    assert kubectl.get("semipdservice", "chat", "-n", "team-a")["metadata"]["uid"] == uid
    release("install", "semipd", str(CHART))
    assert kubectl.get("semipdservice", "chat", "-n", "team-a")["metadata"]["uid"] == uid


@pytest.mark.slow
def test_what_kubectl_installed_is_taken_over(tmp_path_factory: pytest.TempPathFactory) -> None:
    with installed_api_server(tmp_path_factory.mktemp("taken-over")) as (_, admin):
        arguments = ("install", "semipd", str(CHART), "--namespace", "semipd-system")
        assert "invalid ownership metadata" in helm(*arguments, kubeconfig=admin.kubeconfig).stderr
        taken = helm(*arguments, "--take-ownership", "--force-conflicts", kubeconfig=admin.kubeconfig)
        assert taken.returncode == 0, taken.stderr
