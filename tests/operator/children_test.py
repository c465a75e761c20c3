"""Children: what a service is made of."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from fleet_objects import observed, service, service_class
from fleet_objects import workload as fleet_workload

from semipd_core.api import codec
from semipd_operator.plan.children import build_children
from semipd_operator.plan.observed import ProxiesView
from semipd_operator.plan.optional_children import INFERENCE_POOL, POD_MONITOR
from semipd_operator.plan.plan import Installation, admit
from semipd_operator.plan.routing import decide_route
from semipd_operator.plan.target import decide_target
from semipd_operator.plan.template import wanted_template
from semipd_operator.plan.template_trial import NO_ROLLOUT

INSTALLATION = Installation(namespace="semipd-system", engine_image="semipd/engine:1")
CPU = service_class(default=True, device="CPU")
CUDA = service_class(default=True, device="CUDA")


def children(
    cls: Any = CPU,
    kinds: tuple[str, ...] = (),
    deployed: int | None = 1,
    api_server_cidrs: tuple[str, ...] = (),
    **spec: Any,
) -> dict[str, dict[str, Any]]:
    """`deployed`: pods; None: there is no workload yet."""
    found = service(**spec)
    effective = admit(observed(service=found), [cls], INSTALLATION, 0).effective
    assert effective is not None
    route = decide_route(found.spec.routing, ProxiesView(), has_image=False)
    there = None if deployed is None else fleet_workload(deployed)
    seen = observed(service=found, workload=there)
    target = decide_target(NO_ROLLOUT, wanted_template(effective), effective, seen)
    built = build_children(
        effective,
        operator_namespace="semipd-system",
        kinds=kinds,
        route=route,
        target=target,
        api_server_cidrs=api_server_cidrs,
    )
    return {manifest["kind"]: manifest for manifest in built}


def pod_spec(cls: Any = CPU, **spec: Any) -> dict[str, Any]:
    found = children(cls, **spec)
    workload = found.get("Deployment") or found["DaemonSet"]
    template: dict[str, Any] = workload["spec"]["template"]["spec"]
    return template


def container(cls: Any = CPU, **spec: Any) -> dict[str, Any]:
    found: dict[str, Any] = pod_spec(cls, **spec)["containers"][0]
    return found


def environment(cls: Any = CPU, **spec: Any) -> dict[str, Any]:
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container(cls, **spec)["env"]}


@pytest.mark.parametrize(
    ("placement", "own"),
    [
        pytest.param("Replicas", {"Deployment", "PodDisruptionBudget"}, id="as many as are asked for"),
        pytest.param("EveryNode", {"DaemonSet"}, id="a budget of a DaemonSet would refuse every eviction"),
    ],
)
def test_the_kinds_of_a_placement(placement: str, own: set[str]) -> None:
    shared = {"ServiceAccount", "Role", "RoleBinding", "Service", "NetworkPolicy"}
    assert children(placement=placement).keys() == shared | own


@pytest.mark.parametrize(
    ("kinds", "routing", "more"),
    [
        pytest.param((), "InferencePool", set(), id="nothing of other projects is there"),
        pytest.param((POD_MONITOR,), "Service", {"PodMonitor"}, id="pod monitors are there"),
        pytest.param((INFERENCE_POOL,), "Service", set(), id="pools are there and not asked for"),
        pytest.param(
            (INFERENCE_POOL,), "InferencePool", {"InferencePool"}, id="pools are there and asked for"
        ),
    ],
)
def test_children_of_other_projects_kinds(kinds: tuple[str, ...], routing: str, more: set[str]) -> None:
    assert children(kinds=kinds, routing=routing).keys() - children().keys() == more


def test_series_of_pods_get_the_service_and_the_component_as_labels() -> None:
    """Named as Prometheus' discovery names the pods' labels, and these are on the pods."""
    found = children(kinds=(POD_MONITOR,))
    pod_labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
    known = {f"__meta_kubernetes_pod_label_{re.sub('[./-]', '_', name)}": name for name in pod_labels}
    endpoints = found["PodMonitor"]["spec"]["podMetricsEndpoints"]
    assert [each["port"] for each in endpoints] == ["agent", "http"]
    for endpoint in endpoints:
        given = {
            each["targetLabel"]: pod_labels[known[each["sourceLabels"][0]]]
            for each in endpoint["relabelings"]
        }
        assert given == {"service": "chat", "component": "engine"}


def test_every_child_goes_with_its_service() -> None:
    for manifest in children(kinds=(POD_MONITOR, INFERENCE_POOL), routing="InferencePool").values():
        [owner] = manifest["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["name"], owner["uid"]) == ("SemiPDService", "chat", "uid-chat")
        assert manifest["metadata"]["namespace"] == "team-a"
        assert manifest["metadata"]["labels"]["semipd.io/service"] == "chat"


def test_selectors_select_the_pods_and_never_a_version() -> None:
    found = children()
    labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for pairs in (
        found["Deployment"]["spec"]["selector"]["matchLabels"],
        found["Service"]["spec"]["selector"],
        found["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
        found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
    ):
        assert pairs.items() <= labels.items()
        assert not any("version" in key for key in pairs)


def test_replicas_that_nobody_has_set_are_those_that_there_are() -> None:
    """Taken out of an apply they would become 1: a manifest that gives the number to an autoscaler would end pods."""
    assert "replicas" not in children(deployed=None)["Deployment"]["spec"]
    assert children(deployed=8)["Deployment"]["spec"]["replicas"] == 8
    assert children(deployed=8, replicas=0)["Deployment"]["spec"]["replicas"] == 0


@pytest.mark.parametrize(
    ("cls", "rollout", "update"),
    [
        pytest.param(CPU, {}, {"maxSurge": 1, "maxUnavailable": 0}, id="a node has room for one more"),
        pytest.param(CUDA, {}, {"maxSurge": 0, "maxUnavailable": 1}, id="a node has no second set of GPUs"),
        pytest.param(
            CPU,
            {"maxSurge": 0, "maxUnavailable": 2},
            {"maxSurge": 0, "maxUnavailable": 2},
            id="no surge is allowed",
        ),
    ],
)
def test_how_a_daemon_set_rolls_out(cls: Any, rollout: dict[str, int], update: dict[str, int]) -> None:
    daemon_set = children(cls, placement="EveryNode", rollout=rollout)["DaemonSet"]
    assert daemon_set["spec"]["updateStrategy"]["rollingUpdate"] == update


def test_pods_keep_to_the_restricted_standard() -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted."""
    spec, security = pod_spec(), container()["securityContext"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security["readOnlyRootFilesystem"] is True
    allowed = {"emptyDir", "persistentVolumeClaim", "image"}
    assert all((volume.keys() - {"name"}) <= allowed for volume in spec["volumes"])
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()


def test_a_pod_has_time_to_leave_its_endpoints_to_drain_and_to_stop() -> None:
    spec = pod_spec(drain={"timeoutSeconds": 100})
    assert spec["terminationGracePeriodSeconds"] == 5 + 100 + 20


@pytest.mark.parametrize(
    ("cls", "resources", "requests", "limits"),
    [
        pytest.param(CPU, {}, None, None, id="a CPU pod that asks for nothing"),
        pytest.param(
            CPU,
            {"cpu": "500m", "memory": "2Gi"},
            {"cpu": "500m", "memory": "2Gi"},
            {"memory": "2Gi"},
            id="CPUs are not limited",
        ),
        pytest.param(
            CUDA,
            {"gpusPerEngine": 2, "enginesPerPod": 4},
            {"nvidia.com/gpu": "8"},
            {"nvidia.com/gpu": "8"},
            id="whole GPUs for all engines",
        ),
    ],
)
def test_resources(cls: Any, resources: dict[str, Any], requests: Any, limits: Any) -> None:
    found = container(cls, resources=resources)["resources"]
    assert (found.get("requests"), found.get("limits")) == (requests, limits)


@pytest.mark.parametrize(
    ("uri", "seen", "volume"),
    [
        pytest.param(
            "hf://org/model@main", "hf://org/model@main", None, id="from the hub, by the pod itself"
        ),
        pytest.param(
            "pvc://weights/llama/8b",
            "file:///models/llama/8b",
            {"persistentVolumeClaim": {"claimName": "weights", "readOnly": True}},
            id="a claim",
        ),
        pytest.param(
            "pvc://weights",
            "file:///models",
            {"persistentVolumeClaim": {"claimName": "weights", "readOnly": True}},
            id="a whole claim",
        ),
        pytest.param(
            "image://registry/llama:8b",
            "file:///models",
            {"image": {"reference": "registry/llama:8b"}},
            id="an image",
        ),
    ],
)
def test_where_a_model_comes_from(uri: str, seen: str, volume: dict[str, Any] | None) -> None:
    spec = pod_spec(model={"uri": uri})
    served = json.loads(environment(model={"uri": uri})["SEMIPD_SERVICE"])
    assert served["spec"]["model"]["uri"] == seen
    mounted = {each["name"]: each for each in spec["volumes"]}.get("model")
    assert mounted == (None if volume is None else {"name": "model", **volume})


def test_secrets_come_as_variables_and_never_in_the_manifest() -> None:
    found = environment(
        model={"uri": "hf://org/model", "tokenSecretRef": {"name": "hf", "key": "token"}},
        http={"apiKeySecretRef": {"name": "keys", "key": "chat"}},
    )
    assert found["HF_TOKEN"] == {"secretKeyRef": {"name": "hf", "key": "token"}}
    assert found["SEMIPD_API_KEY"] == {"secretKeyRef": {"name": "keys", "key": "chat"}}


def test_the_pod_reads_a_service_that_its_own_command_line_accepts() -> None:
    served = codec.decode_service(json.loads(environment(replicas=4)["SEMIPD_SERVICE"]))
    assert served.metadata.name == "chat"
    assert served.spec.resources.device.value == "CPU"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"replicas": 7}, id="replicas"),
        pytest.param({"routing": "Proxy"}, id="routing"),
        pytest.param({"rollout": {"canaryPercent": 50}}, id="rollout"),
        pytest.param({"autoscale": {"maxReplicas": 4}}, id="autoscaling"),
    ],
)
def test_what_is_the_clusters_business_restarts_no_pod(change: dict[str, Any]) -> None:
    before = children(replicas=1)["Deployment"]["spec"]["template"]
    assert children(**{"replicas": 1, **change})["Deployment"]["spec"]["template"] == before


def test_a_change_of_the_model_replaces_the_pods() -> None:
    before = children()["Deployment"]["spec"]["template"]
    assert (
        children(model={"uri": "builtin://smollm2-135m", "servedName": "other"})["Deployment"]["spec"][
            "template"
        ]
        != before
    )


def test_an_agent_may_read_partitions_and_write_their_status_and_nothing_else() -> None:
    rules = children()["Role"]["rules"]
    assert {
        (resource, verb) for rule in rules for resource in rule["resources"] for verb in rule["verbs"]
    } == {
        ("semipdpartitions", "get"),
        ("semipdpartitions", "list"),
        ("semipdpartitions", "watch"),
        ("semipdpartitions/status", "patch"),
    }


def test_the_agents_port_is_for_the_operator_and_for_scrapes() -> None:
    http, agent = children()["NetworkPolicy"]["spec"]["ingress"]
    assert "from" not in http
    assert [port["port"] for port in agent["ports"]] == [8001]
    assert agent["from"][0]["namespaceSelector"]["matchLabels"] == {
        "kubernetes.io/metadata.name": "semipd-system"
    }


def test_the_agents_port_is_for_the_api_servers_that_the_operator_is_told_of() -> None:
    before = children()["NetworkPolicy"]["spec"]["ingress"]
    http, agent = children(api_server_cidrs=("10.0.0.0/28", "fd00::/64"))["NetworkPolicy"]["spec"]["ingress"]
    assert http == before[0]
    assert agent["from"] == [
        *before[1]["from"],
        {"ipBlock": {"cidr": "10.0.0.0/28"}},
        {"ipBlock": {"cidr": "fd00::/64"}},
    ]
