"""What is kept of an object, and which changes of it are news."""

import json
from copy import deepcopy

import pytest

from semipd_operator.observe.trim import is_news, trim_partition, trim_pod, trim_service

LABELS = {"semipd.io/service": "chat", "a": "b"}
SPLIT = {"prefillPercent": 80, "decodePercent": 100}
PARTITION = {
    "apiVersion": "semipd.io/v1alpha1",
    "kind": "SemiPDPartition",
    "metadata": {"name": "chat-1", "namespace": "team-a", "resourceVersion": "7", "labels": LABELS},
    "spec": {"target": SPLIT, "decisionID": "cluster-1"},
    "status": {
        "observedDecisionID": "cluster-1",
        "lastHeartbeatTime": "2026-11-21T12:00:00Z",
        "engines": [{"name": "engine-0", "requested": SPLIT, "granted": SPLIT}],
    },
}
POD = {
    "metadata": {"name": "chat-1", "namespace": "team-a", "uid": "u", "resourceVersion": "7"},
    "spec": {"nodeName": "n"},
    "status": {"podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
}


def changed(found, path, value):
    copy = deepcopy(found)
    *steps, last = path.split(".")
    inner = copy
    for step in steps:
        inner = inner[step]
    inner[last] = value
    copy["metadata"]["resourceVersion"] = "8"
    return copy


@pytest.mark.parametrize(
    ("keep", "found", "path", "value", "news"),
    [
        pytest.param(
            trim_partition,
            PARTITION,
            "status.lastHeartbeatTime",
            "2026-11-21T12:15:00Z",
            False,
            id="a heartbeat",
        ),
        pytest.param(trim_partition, PARTITION, "metadata.managedFields", [], False, id="a manager's entry"),
        pytest.param(trim_partition, PARTITION, "status.engines", [], True, id="what the agent says"),
        pytest.param(trim_partition, PARTITION, "spec.decisionID", "cluster-2", True, id="a wish"),
        pytest.param(
            trim_partition, PARTITION, "metadata.labels", LABELS | {"a": "c"}, False, id="another's label"
        ),
        pytest.param(
            trim_partition, PARTITION, "metadata.labels", {"semipd.io/service": "b"}, True, id="its service"
        ),
        pytest.param(
            trim_pod,
            POD,
            "metadata.labels",
            {"app.kubernetes.io/component": "proxy"},
            True,
            id="what a pod is part of",
        ),
        pytest.param(trim_partition, PARTITION, "spec", {}, True, id="a partition that cannot be read"),
        pytest.param(trim_pod, POD, "status.startTime", "2026-11-21T12:00:00Z", False, id="a pod's start"),
        pytest.param(trim_pod, POD, "status.podIP", "10.0.0.2", True, id="a pod's address"),
        pytest.param(trim_pod, POD, "metadata.deletionTimestamp", "t", True, id="a pod that leaves"),
    ],
)
def test_a_change_is_news_if_it_shows_in_what_is_kept(keep, found, path, value, news):
    assert is_news(keep(found), keep(changed(found, path, value))) == news


def test_what_comes_and_what_goes_is_news():
    kept = trim_pod(POD)
    assert is_news(None, kept)
    assert is_news(kept, None)


def test_a_partition_is_kept_as_it_is_read():
    kept = trim_partition(PARTITION)
    assert kept["partition"].spec.decision_id == "cluster-1"
    assert kept["partition"].status.engines[0].granted.prefill_percent == 80
    assert kept["metadata"]["resourceVersion"] == "7"


def read_twice(keep, found):
    """As two objects of a fleet arrive: each in an answer of its own."""
    return [keep(json.loads(json.dumps(found))) for _ in range(2)]


def test_equal_words_of_two_pods_are_one_in_memory():
    one, other = read_twice(trim_pod, POD)
    assert one["view"].node is other["view"].node
    assert one["metadata"]["namespace"] is other["metadata"]["namespace"]
    assert all(a is b for a, b in zip(one["metadata"], other["metadata"], strict=True)), "keys too"


def test_of_a_service_only_managers_of_its_replicas_are_kept():
    entries = [
        {"manager": "kubectl", "fieldsV1": {"f:spec": {"f:model": {}}}},
        {"manager": "hpa", "subresource": "scale", "fieldsV1": {"f:spec": {"f:replicas": {}}}},
    ]
    found = {"metadata": {"name": "chat", "managedFields": entries}, "spec": {"replicas": 2}, "status": {}}
    assert trim_service(found) == {**found, "metadata": {"name": "chat", "managedFields": entries[1:]}}


def test_equal_words_of_two_partitions_are_one_in_memory():
    one, other = (found["partition"] for found in read_twice(trim_partition, PARTITION))
    assert one.spec.decision_id is other.spec.decision_id
    assert one.status.engines[0].name is other.status.engines[0].name
