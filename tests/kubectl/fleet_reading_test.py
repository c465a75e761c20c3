"""How raw objects become a fleet: what belongs together, and what a later release has written."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from seen_services import NOW_S, split

from semipd_core.api.service import ServiceStatus, SloStatus
from semipd_kubectl.observe.objects import build_fleet, read_partition, read_pod
from semipd_kubectl.reports.explain import build_explanation


def raw_service(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "apiVersion": "semipd.io/v1alpha1",
        "kind": "SemiPDService",
        "metadata": {"name": name, "namespace": "team-a", "labels": {}},
        "spec": {"model": {"uri": "builtin://smollm2-135m"}},
        **changes,
    }


def test_a_field_of_a_later_release_is_left_out_and_a_value_of_one_hides_no_other_service() -> None:
    newer = raw_service("newer", status={"replicas": 2, "novel": 1, "slo": {"novel": {"deep": 1}}})
    broken = raw_service("broken", spec={"model": {"uri": "builtin://smollm2-135m"}, "placement": "Novel"})
    fleet = build_fleet([newer, broken], [], [], [])
    assert [each.name for each in fleet.services] == ["newer"]
    assert fleet.services[0].service.status == ServiceStatus(replicas=2, slo=SloStatus())
    assert len(fleet.unreadable) == 1
    assert "spec.placement: got 'Novel'" in fleet.unreadable[0]


def test_pods_and_partitions_belong_by_namespace_and_label() -> None:
    def pod(name: str, namespace: str, of: str) -> dict[str, Any]:
        metadata = {"name": name, "namespace": namespace, "labels": {"semipd.io/service": of}}
        return {"metadata": metadata, "spec": {"containers": []}}

    pods = [pod("a", "team-a", "chat"), pod("b", "team-b", "chat"), pod("c", "team-a", "code")]
    fleet = build_fleet([raw_service("chat")], pods, [], [])
    assert [each.name for each in fleet.services[0].pods] == ["a"]


def test_a_pod_is_looked_at_as_often_in_a_fleet_of_many_services_as_in_one_of_few() -> None:
    """A thousand services with ten pods each were ten million looks."""

    class Counted(dict[str, Any]):
        looks = 0

        def __getitem__(self, key: str) -> Any:
            Counted.looks += key == "metadata"
            return super().__getitem__(key)

    def looks(count: int) -> float:
        labels = [{"semipd.io/service": f"chat-{number}"} for number in range(count)]
        pods = [
            Counted(metadata={"name": f"{each}", "namespace": "team-a", "labels": each}) for each in labels
        ]
        before = Counted.looks
        fleet = build_fleet([raw_service(f"chat-{number}") for number in range(count)], pods, [], [])
        assert all(len(each.pods) == 1 for each in fleet.services)
        return (Counted.looks - before) / count

    assert looks(20) == looks(2)


def test_the_agents_port_is_the_one_that_the_pod_names() -> None:
    ports = [{"name": "http", "containerPort": 8000}, {"name": "agent", "containerPort": 9001}]
    found = {"metadata": {"name": "a"}, "spec": {"containers": [{"name": "engine", "ports": ports}]}}
    assert read_pod(found).agent_port == 9001
    assert read_pod({"metadata": {"name": "a"}, "spec": {"containers": []}}).agent_port == 8001


def test_a_class_that_may_not_be_read_leaves_the_services_own_bounds() -> None:
    found = build_fleet([raw_service("chat")], [], [], None).services[0]
    assert found.class_spec is None
    assert found.bounds.prefill_min_percent == 20
    assert build_explanation(found, None, NOW_S).max_moves_per_hour is None
    assert build_explanation(replace(found, is_class_known=True), None, NOW_S).max_moves_per_hour == 12


def test_a_partition_of_a_later_release_is_read() -> None:
    given = {
        "apiVersion": "semipd.io/v1alpha1",
        "kind": "SemiPDPartition",
        "metadata": {"name": "chat-1"},
        "spec": {"target": {"prefillPercent": 80, "decodePercent": 90, "novel": 1}, "decisionID": "x"},
    }
    assert read_partition(given).spec.target == split(80, 90)
