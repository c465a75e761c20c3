"""Who answers at a service's address while `routing` changes, and what the proxies are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fleet_objects import NOW, observed, service, service_class, workload
from hypothesis import given
from hypothesis import strategies as st

from semipd_core.api.conditions import find_condition
from semipd_core.api.service import Routing
from semipd_operator.plan.naming import ENGINE, PROXY, child_name
from semipd_operator.plan.observed import Observed, ProxiesView
from semipd_operator.plan.optional_children import INFERENCE_POOL, POD_MONITOR
from semipd_operator.plan.plan import Installation, Plan, admit, build_plan
from semipd_operator.plan.routing import RouteReason, decide_route

INSTALLATION = Installation(
    namespace="semipd-system", engine_image="semipd/engine:1", proxy_image="semipd/operator:1"
)
CPU = service_class(default=True, device="CPU")
NONE = ProxiesView()
STARTING = ProxiesView(workload=workload(2, ready=1), pods=2)
READY = ProxiesView(workload=workload(2), pods=2)
ANSWERING = replace(READY, answer=True)
STALE = workload(2, is_current=False)


@pytest.mark.parametrize(
    ("routing", "proxies", "backend", "has", "reason"),
    [
        pytest.param("Service", NONE, ENGINE, (False, False), RouteReason.TO_ENGINES, id="never had proxies"),
        pytest.param("Proxy", NONE, ENGINE, (True, True), RouteReason.PROXIES_STARTING, id="none yet"),
        pytest.param("Proxy", STARTING, ENGINE, (True, True), RouteReason.PROXIES_STARTING, id="one of two"),
        pytest.param(
            "Proxy",
            ProxiesView(workload=STALE, pods=2),
            ENGINE,
            (True, True),
            RouteReason.PROXIES_STARTING,
            id="the counts are of an older Deployment",
        ),
        pytest.param("Proxy", READY, PROXY, (True, True), RouteReason.PROXIES_READY, id="both are ready"),
        pytest.param(
            "Proxy",
            ProxiesView(workload=workload(2, ready=1, is_stuck=True), pods=2),
            PROXY,
            (True, True),
            RouteReason.PROXIES_READY,
            id="there is no room for the second",
        ),
        pytest.param(
            "Proxy",
            ProxiesView(workload=workload(2, ready=1), pods=2, answer=True),
            PROXY,
            (True, True),
            RouteReason.PROXIES_READY,
            id="one of two that answer is lost",
        ),
        pytest.param(
            "Proxy",
            ProxiesView(workload=STALE, pods=3, answer=True),
            PROXY,
            (True, True),
            RouteReason.PROXIES_READY,
            id="those that answer are rolled out anew",
        ),
        pytest.param(
            "Proxy",
            ProxiesView(workload=workload(2, ready=0), pods=2, answer=True),
            ENGINE,
            (True, True),
            RouteReason.PROXIES_LOST,
            id="all that answered are lost",
        ),
        pytest.param(
            "Service",
            ANSWERING,
            ENGINE,
            (True, True),
            RouteReason.TO_ENGINES,
            id="first the address moves away",
        ),
        pytest.param(
            "Service", READY, ENGINE, (False, True), RouteReason.TO_ENGINES, id="then the proxies go"
        ),
        pytest.param(
            "Service",
            ProxiesView(pods=1),
            ENGINE,
            (False, True),
            RouteReason.TO_ENGINES,
            id="one still drains and needs its endpoints",
        ),
        pytest.param(
            "InferencePool",
            ANSWERING,
            ENGINE,
            (True, True),
            RouteReason.TO_ENGINES,
            id="to a pool as to Service",
        ),
    ],
)
def test_the_route(
    routing: str, proxies: ProxiesView, backend: str, has: tuple[bool, bool], reason: RouteReason
) -> None:
    route = decide_route(Routing(routing), proxies)
    assert (route.backend, (route.has_proxies, route.has_endpoints), route.reason) == (backend, has, reason)


@pytest.mark.parametrize(
    ("routing", "has", "reason"),
    [
        ("Proxy", {"has_image": False}, RouteReason.NO_IMAGE),
        ("InferencePool", {"has_pool_kind": False}, RouteReason.NO_POOL_KIND),
    ],
)
def test_what_cannot_be_routed_as_asked_is_answered_by_the_engines(
    routing: str, has: dict[str, bool], reason: RouteReason
) -> None:
    route = decide_route(Routing(routing), NONE, **has)
    assert (route.backend, route.is_as_asked, route.reason) == (ENGINE, False, reason)


views = st.builds(
    ProxiesView,
    workload=st.none()
    | st.builds(
        lambda ready, **flags: workload(2, ready=ready, **flags),
        st.integers(0, 3),
        is_current=st.booleans(),
        is_stuck=st.booleans(),
    ),
    pods=st.integers(0, 4),
    answer=st.booleans(),
)


@given(st.sampled_from(Routing), views, st.booleans(), st.booleans())
def test_the_address_never_leads_to_proxies_that_are_not_there(routing, proxies, has_image, has_pool_kind):
    route = decide_route(routing, proxies, has_image=has_image, has_pool_kind=has_pool_kind)
    if route.backend == PROXY:
        assert proxies.workload is not None
        assert proxies.workload.ready > 0
        assert route.has_proxies
    if proxies.answer:
        assert route.has_proxies, "what answers is not taken away in the turn in which the address moves"
    if proxies.pods:
        assert route.has_endpoints or not route.has_proxies
        assert route.has_endpoints


@pytest.mark.parametrize("start", [NONE, STARTING, READY, ANSWERING])
@pytest.mark.parametrize("routing", list(Routing))
def test_turn_by_turn_it_comes_to_rest_with_what_is_asked_for(routing: Routing, start: ProxiesView) -> None:
    """With a Deployment controller that does its work between two turns."""
    proxies = start
    for _ in range(4):
        route = decide_route(routing, proxies)
        proxies = ProxiesView(
            workload=workload(2) if route.has_proxies else None,
            pods=2 if route.has_proxies else 0,
            answer=route.backend == PROXY,
        )
    last = decide_route(routing, proxies)
    wants = routing is Routing.PROXY
    assert (last.backend == PROXY, last.has_proxies, last.has_endpoints) == (wants, wants, wants)


# --- children -------------------------------------------------------------------------------------------------


def plan(proxies: ProxiesView = READY, installation: Installation = INSTALLATION, **spec: Any) -> Plan:
    found: Observed = observed(service=service(**{"routing": "Proxy", **spec}), proxies=proxies)
    admission = admit(found, [CPU], installation, 0)
    return build_plan(found, admission, installation, wish=None, loop=None, now=NOW)


def children(*args: Any, **spec: Any) -> dict[tuple[str, str], dict[str, Any]]:
    return {(each["kind"], each["metadata"]["name"]): each for each in plan(*args, **spec).children}


PROXY_CHILDREN = {
    ("ServiceAccount", "chat-proxy"), ("Role", "chat-proxy"), ("RoleBinding", "chat-proxy"), ("Service", "chat-engines"),
    ("NetworkPolicy", "chat-proxy"), ("PodDisruptionBudget", "chat-proxy"), ("Deployment", "chat-proxy"),
}  # fmt: skip


def test_the_children_of_a_routing() -> None:
    plain = children(NONE, routing="Service").keys()
    assert not plain & PROXY_CHILDREN
    assert children().keys() == plain | PROXY_CHILDREN


def pod_spec(**spec: Any) -> dict[str, Any]:
    found: dict[str, Any] = children(**spec)["Deployment", "chat-proxy"]["spec"]["template"]["spec"]
    return found


def test_the_services_address_leads_to_the_proxies_once_they_are_ready() -> None:
    before = children(STARTING)["Service", "chat"]["spec"]
    after = children(READY)["Service", "chat"]["spec"]
    assert before["selector"]["app.kubernetes.io/component"] == "engine"
    assert after["selector"]["app.kubernetes.io/component"] == "proxy"
    assert before["ports"] == after["ports"]
    labels = children()["Deployment", "chat-proxy"]["spec"]["template"]["metadata"]["labels"]
    assert after["selector"].items() <= labels.items()


def test_the_proxies_find_the_engines_by_a_headless_service() -> None:
    engines = children()["Service", "chat-engines"]["spec"]
    assert engines["clusterIP"] == "None"
    labels = children()["Deployment", "chat"]["spec"]["template"]["metadata"]["labels"]
    assert engines["selector"].items() <= labels.items()
    assert [port["name"] for port in engines["ports"]] == ["http", "agent"]
    arguments = pod_spec()["containers"][0]["args"]
    assert arguments[arguments.index("--service") + 1] == "chat-engines"
    assert arguments[arguments.index("--namespace") + 1] == "team-a"


def test_a_proxy_may_read_endpoint_slices_and_nothing_else() -> None:
    [rule] = children()["Role", "chat-proxy"]["rules"]
    assert rule == {
        "apiGroups": ["discovery.k8s.io"],
        "resources": ["endpointslices"],
        "verbs": ["list", "watch"],
    }


def test_proxies_keep_to_the_restricted_standard() -> None:
    spec = pod_spec()
    [container] = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "nvidia.com/gpu" not in str(spec)


def test_a_proxy_has_time_to_be_seen_leaving_and_to_finish_what_the_engines_may_finish() -> None:
    spec = pod_spec(drain={"timeoutSeconds": 100})
    assert spec["terminationGracePeriodSeconds"] == 5 + 100 + 10
    arguments = spec["containers"][0]["args"]
    assert arguments[arguments.index("--lag-s") + 1] == "5"
    assert arguments[arguments.index("--drain-s") + 1] == "100"


@pytest.mark.parametrize(
    ("change", "restarts"),
    [
        pytest.param({"replicas": 7}, False, id="replicas"),
        pytest.param({"model": {"uri": "hf://org/other"}}, False, id="the model"),
        pytest.param({"slo": {"ttft": {"percentile": 95, "targetMilliseconds": 9}}}, False, id="the SLO"),
        pytest.param({"resources": {"cpu": "9"}}, False, id="the engines' resources"),
        pytest.param({"scheduling": {"nodeSelector": {"gpu": "h200"}}}, False, id="the GPUs' nodes"),
        pytest.param({"partition": {"mode": "Static"}}, False, id="the partition"),
        pytest.param({"drain": {"timeoutSeconds": 7}}, True, id="the time to drain"),
    ],
)
def test_what_restarts_the_proxies(change: dict[str, Any], restarts: bool) -> None:
    key = ("Deployment", "chat-proxy")
    assert (children()[key]["spec"] != children(**change)[key]["spec"]) is restarts


def test_the_agents_port_is_open_to_the_proxies_of_the_service_alone() -> None:
    _, agent = children()["NetworkPolicy", "chat"]["spec"]["ingress"]
    assert {
        "podSelector": {"matchLabels": {"semipd.io/service": "chat", "app.kubernetes.io/component": "proxy"}}
    } in agent["from"]
    _, plain = children(NONE, routing="Service")["NetworkPolicy", "chat"]["spec"]["ingress"]
    assert "podSelector" not in plain["from"][-1]


def test_proxies_are_scraped_where_pod_monitors_are() -> None:
    found = children(READY, replace(INSTALLATION, optional_kinds=(POD_MONITOR,)))
    [endpoint] = found["PodMonitor", "chat-proxy"]["spec"]["podMetricsEndpoints"]
    assert (endpoint["port"], endpoint["path"]) == ("http", "/metrics")


def test_a_proxys_children_go_with_the_service() -> None:
    for key, manifest in children().items():
        [owner] = manifest["metadata"]["ownerReferences"]
        assert owner["uid"] == "uid-chat", key
        assert manifest["metadata"]["labels"]["semipd.io/service"] == "chat"


@given(st.text("abc", min_size=1, max_size=63), st.sampled_from(["-proxy", "-engines"]))
def test_names_are_dns_labels_and_tell_services_apart(name, suffix):
    found = child_name(name, suffix)
    assert len(found) <= 63
    assert found.endswith(suffix)
    assert child_name(name + "x" if len(name) < 63 else name[:-1] + "x", suffix) != found


# --- status ---------------------------------------------------------------------------------------------------


def condition(kind: str, *args: Any, **spec: Any) -> tuple[str, str] | None:
    found = find_condition(plan(*args, **spec).status.conditions, kind)
    return None if found is None else (found.status.value, found.reason)


def test_the_status_says_whether_requests_go_as_asked() -> None:
    assert condition("Routed", STARTING) == ("False", "ProxiesStarting")
    assert condition("Ready", STARTING) == ("False", "ProxiesStarting")
    assert condition("Routed", READY) == ("True", "ProxiesReady")
    assert condition("Ready", READY) == ("True", "AllReady")
    assert condition("Routed", NONE, routing="Service") is None
    without_image = replace(INSTALLATION, proxy_image=None)
    assert condition("Routed", NONE, without_image) == ("False", "NoProxyImage")
    assert condition("Routed", NONE, routing="InferencePool") == ("False", "NoInferencePoolKind")
    with_pools = replace(INSTALLATION, optional_kinds=(INFERENCE_POOL,))
    assert condition("Routed", NONE, with_pools, routing="InferencePool") == ("True", "EnginesAnswer")


def test_without_an_image_there_are_no_proxies() -> None:
    found = children(NONE, replace(INSTALLATION, proxy_image=None))
    assert not {key for key in found if key[0] == "Deployment"} - {("Deployment", "chat")}
