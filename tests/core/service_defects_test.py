"""Each wrong SemiPDService is refused with the path of the field, the value given and what is allowed."""

from __future__ import annotations

from typing import Any

import pytest
from changed_manifest import ABSENT, SERVICE, case, changed

from semipd_core.api.codec import decode_service
from semipd_core.errors import InvalidSpec

PRE = "spec.partition.bounds.prefillMinPercent"
URI = "spec.model.uri"


@pytest.mark.parametrize(
    ("changes", "path", "given", "allowed"),
    [
        # what kind of object it is comes first
        case(
            "no apiVersion", {"apiVersion": ABSENT}, "apiVersion", "nothing", "semipd.io/v1alpha1 (required)"
        ),
        case("a group of others", {"apiVersion": "apps/v1"}, "apiVersion", "'apps/v1'", "semipd.io/v1alpha1"),
        case(
            "another kind, said before its unknown keys",
            {"kind": "Deployment", "spec.template": {}},
            "kind",
            "'Deployment'",
            "SemiPDService",
        ),
        # unknown keys
        case(
            "a misspelt key names the nearest",
            {"spec.partition.polciy": "Static"},
            "spec.partition.polciy",
            "an unknown key",
            "policy (the nearest of the keys here)",
        ),
        case(
            "a key like none lists all",
            {"spec.drain.zzz": 1},
            "spec.drain.zzz",
            "an unknown key",
            "timeoutSeconds",
        ),
        case(
            "snake case is not the wire's",
            {"spec.http.max_queued_requests": 1},
            "spec.http.max_queued_requests",
            "an unknown key",
            "maxQueuedRequests (the nearest of the keys here)",
        ),
        case(
            "a misspelt key is said before the key that it leaves missing",
            {"spec.modle": {}, "spec.model": ABSENT},
            "spec.modle",
            "an unknown key",
            "model (the nearest of the keys here)",
        ),
        case("an unknown key at the top", {"data": {}}, "data", "an unknown key", "metadata"),
        case(
            "an unknown key in metadata",
            {"metadata.lables": {}},
            "metadata.lables",
            "an unknown key",
            "labels",
        ),
        case(
            "an unknown key in a list",
            {"spec.scheduling.tolerations": [{"key": "gpu"}, {"effct": "NoSchedule"}]},
            "spec.scheduling.tolerations[1].effct",
            "an unknown key",
            "effect",
        ),
        # missing
        case("no spec", {"spec": ABSENT}, "spec", "nothing", "a mapping with the keys model, classRef"),
        case("no model", {"spec.model": ABSENT}, "spec.model", "nothing", "a mapping with the keys uri"),
        case("no uri", {URI: ABSENT}, URI, "nothing", "a URI that starts with one of hf://"),
        case("no name", {"metadata.name": ABSENT}, "metadata.name", "nothing", "a DNS label"),
        case(
            "half a secret",
            {"spec.http.apiKeySecretRef": {"name": "k"}},
            "spec.http.apiKeySecretRef.key",
            "nothing",
            "(required)",
        ),
        case(
            "an autoscaler without a maximum",
            {"spec.autoscale": {"minReplicas": 1}},
            "spec.autoscale.maxReplicas",
            "nothing",
            "an integer 1..100000 (required)",
        ),
        case(
            "half a split",
            {"spec.partition.initial": {"prefillPercent": 80}},
            "spec.partition.initial.decodePercent",
            "nothing",
            "an integer 1..100 (required)",
        ),
        # wrong types
        case("spec is a list", {"spec": []}, "spec", "a list", "a mapping with the keys model"),
        case("spec is null", {"spec": None}, "spec", "None", "a mapping with the keys model"),
        case(
            "the model is a string",
            {"spec.model": "smollm2"},
            "spec.model",
            "'smollm2'",
            "a mapping with the keys uri",
        ),
        case(
            "a boolean is no integer",
            {"spec.replicas": True},
            "spec.replicas",
            "True",
            "an integer 0..100000",
        ),
        case(
            "a string is no integer", {"spec.replicas": "2"}, "spec.replicas", "'2'", "an integer 0..100000"
        ),
        case("a float is no integer", {"spec.replicas": 2.0}, "spec.replicas", "2.0", "an integer 0..100000"),
        case("not a number", {"spec.replicas": float("nan")}, "spec.replicas", "nan", "an integer 0..100000"),
        case("a percent as text", {PRE: "20%"}, PRE, "'20%'", "an integer 1..100"),
        case(
            "a list of references is a mapping",
            {"spec.scheduling.imagePullSecrets": {"name": "x"}},
            "spec.scheduling.imagePullSecrets",
            "a mapping",
            "a list of a mapping with the keys name",
        ),
        case(
            "a selector's value is a number",
            {"spec.scheduling.nodeSelector": {"gpus": 8}},
            "spec.scheduling.nodeSelector.gpus",
            "8",
            "a label value",
        ),
        case(
            "a quantity is true",
            {"spec.resources.cpu": True},
            "spec.resources.cpu",
            "True",
            "a positive quantity of CPUs",
        ),
        # values out of range
        case("percent 0", {PRE: 0}, PRE, "0", "an integer 1..100"),
        case(
            "percent 101",
            {"spec.partition.initial": {"prefillPercent": 80, "decodePercent": 101}},
            "spec.partition.initial.decodePercent",
            "101",
            "an integer 1..100",
        ),
        case(
            "percentile 100 can never be met",
            {"spec.slo.ttft.percentile": 100},
            "spec.slo.ttft.percentile",
            "100",
            "an integer 1..99",
        ),
        case(
            "a target of 0 ms",
            {"spec.slo.tpot.targetMilliseconds": 0},
            "spec.slo.tpot.targetMilliseconds",
            "0",
            "an integer 1..600000",
        ),
        case("negative replicas", {"spec.replicas": -1}, "spec.replicas", "-1", "an integer 0..100000"),
        case(
            "no context",
            {"spec.model.maxContextTokens": 0},
            "spec.model.maxContextTokens",
            "0",
            "an integer 1..100000000",
        ),
        case(
            "a queue of nothing",
            {"spec.http.maxQueuedRequests": 0},
            "spec.http.maxQueuedRequests",
            "0",
            "an integer 1..100000",
        ),
        case("an upper-case name", {"metadata.name": "Chat"}, "metadata.name", "'Chat'", "a DNS label"),
        case(
            "a name of 64 characters",
            {"metadata.name": "a" * 64},
            "metadata.name",
            "a" * 64,
            "at most 63 characters",
        ),
        case(
            "a name that ends in a newline",
            {"metadata.name": "chat\n"},
            "metadata.name",
            "'chat\\n'",
            "a DNS label",
        ),
        case(
            "an underscore in a namespace",
            {"metadata.namespace": "team_a"},
            "metadata.namespace",
            "'team_a'",
            "a DNS label",
        ),
        case(
            "an empty class name",
            {"spec.classRef": {"name": ""}},
            "spec.classRef.name",
            "''",
            "a DNS subdomain",
        ),
        case(
            "an empty served name", {"spec.model.servedName": ""}, "spec.model.servedName", "''", "not empty"
        ),
        case(
            "a digit first, which no Service of its name may have",
            {"metadata.name": "2chat"},
            "metadata.name",
            "'2chat'",
            "a DNS label that begins with a letter",
        ),
        # lists with keys
        case(
            "a condition twice",
            {
                "status.conditions": [
                    {"type": "Ready", "status": "True", "reason": "A"},
                    {"type": "Ready", "status": "False", "reason": "B"},
                ]
            },
            "status.conditions[1]",
            "'Ready'",
            "a type that no item before it has",
        ),
        # unknown choices
        case(
            "an unknown policy",
            {"spec.partition.policy": "Fastest"},
            "spec.partition.policy",
            "'Fastest'",
            "one of ModelPredictive, SLOFeedback",
        ),
        case(
            "an unknown mode",
            {"spec.partition.mode": "auto"},
            "spec.partition.mode",
            "'auto'",
            "one of Auto, Advisory, Static",
        ),
        case(
            "an unknown isolation",
            {"spec.partition.isolation": "MIG"},
            "spec.partition.isolation",
            "'MIG'",
            "one of Auto, MPS, GreenContext, None, Unified",
        ),
        case(
            "null is not the isolation None",
            {"spec.partition.isolation": None},
            "spec.partition.isolation",
            "None",
            "one of Auto, MPS",
        ),
        case(
            "an unknown device",
            {"spec.resources.device": "TPU"},
            "spec.resources.device",
            "'TPU'",
            "one of Auto, CUDA, CPU",
        ),
        case(
            "an unknown routing",
            {"spec.routing": "Ingress"},
            "spec.routing",
            "'Ingress'",
            "one of Service, Proxy, InferencePool",
        ),
        case(
            "an unknown placement",
            {"spec.placement": "Everywhere"},
            "spec.placement",
            "'Everywhere'",
            "one of Replicas, EveryNode",
        ),
        case(
            "an unknown dtype",
            {"spec.model.dtype": "INT4"},
            "spec.model.dtype",
            "'INT4'",
            "one of Auto, BF16, FP32, FP8",
        ),
        # model URIs
        case(
            "a scheme of others",
            {URI: "s3://bucket/model"},
            URI,
            "'s3://bucket/model'",
            "hf://, pvc://, image://, file://, builtin://",
        ),
        case("no scheme", {URI: "smollm2-135m"}, URI, "'smollm2-135m'", "a URI that starts with one of"),
        case(
            "hf without organisation",
            {URI: "hf://llama"},
            URI,
            "'hf://llama'",
            "hf://ORG/NAME or hf://ORG/NAME@REVISION",
        ),
        case(
            "a relative file",
            {URI: "file://models/a.gguf"},
            URI,
            "'file://models/a.gguf'",
            "file:///ABSOLUTE/PATH",
        ),
        case("an empty built-in", {URI: "builtin://"}, URI, "'builtin://'", "builtin://NAME"),
        case("a URI without end", {URI: "file:///" + "x" * 5000}, URI, "…", "file:///ABSOLUTE/PATH"),
        # quantities
        case(
            "a unit that is none",
            {"spec.resources.kvCache": "40GiB"},
            "spec.resources.kvCache",
            "'40GiB'",
            "a positive quantity of bytes such as 40Gi",
        ),
        case(
            "no memory",
            {"spec.resources.memory": 0},
            "spec.resources.memory",
            "0",
            "a positive quantity of bytes",
        ),
        case(
            "negative memory",
            {"spec.resources.memory": "-1Gi"},
            "spec.resources.memory",
            "'-1Gi'",
            "a positive quantity of bytes",
        ),
        case(
            "an endless exponent",
            {"spec.resources.memory": "1e999999999"},
            "spec.resources.memory",
            "'1e999999999'",
            "a positive quantity",
        ),
        case(
            "words for CPUs",
            {"spec.resources.cpu": "four"},
            "spec.resources.cpu",
            "'four'",
            "a positive quantity of CPUs such as",
        ),
        # rules across fields
        case(
            "prefill minimum above maximum",
            {PRE: 60, "spec.partition.bounds.prefillMaxPercent": 50},
            PRE,
            "60",
            "at most prefillMaxPercent, which is 50",
        ),
        case(
            "decode minimum above maximum",
            {"spec.partition.bounds.decodeMaxPercent": 30},
            "spec.partition.bounds.decodeMinPercent",
            "40",
            "at most decodeMaxPercent, which is 30",
        ),
        case(
            "the initial split outside the bounds",
            {"spec.partition.initial": {"prefillPercent": 10, "decodePercent": 100}},
            "spec.partition.initial.prefillPercent",
            "10",
            "20..100, the bounds of prefill",
        ),
        case(
            "an autoscaler's minimum above its maximum",
            {"spec.autoscale": {"minReplicas": 3, "maxReplicas": 2}},
            "spec.autoscale.minReplicas",
            "3",
            "at most maxReplicas, which is 2",
        ),
        case(
            "a rollout that cannot move",
            {"spec.rollout": {"maxSurge": 0, "maxUnavailable": 0}},
            "spec.rollout.maxUnavailable",
            "0",
            "1 or more while maxSurge is 0",
        ),
        case(
            "replicas on every node",
            {"spec.placement": "EveryNode", "spec.replicas": 2},
            "spec.replicas",
            "2",
            "absent with placement EveryNode",
        ),
        case(
            "an autoscaler on every node",
            {"spec.placement": "EveryNode", "spec.autoscale": {"maxReplicas": 2}},
            "spec.autoscale.maxReplicas",
            "2",
            "absent with placement EveryNode",
        ),
    ],
)
def test_service_is_refused(changes: dict[str, Any], path: str, given: str, allowed: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        decode_service(changed(SERVICE, changes))
    assert refused.value.path == path
    assert given in repr(refused.value.given)
    assert allowed in refused.value.allowed


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        pytest.param(None, "None", id="an empty file"),
        pytest.param([SERVICE], "a list", id="a list"),
        pytest.param("text", "'text'", id="text"),
        pytest.param({"spec": {1, 2}}, "a mapping", id="what JSON cannot say"),
    ],
)
def test_what_is_no_object_is_refused_by_its_kind(given: object, shown: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        decode_service(given)
    assert (refused.value.path, repr(refused.value.given)) == ("SemiPDService", shown)
